#!/bin/sh
# Writes the list of users from the secret into memory (a tmpfs), then becomes pgbouncer.
set -eu

umask 077
password=$(sed 's/"/""/g' "$DATABASE_PASSWORD_FILE")
printf '"app" "%s"\n' "$password" > /run/pgbouncer/userlist.txt
exec pgbouncer /etc/pgbouncer/pgbouncer.ini
