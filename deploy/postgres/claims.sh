#!/bin/sh
# The database of the claims and the role that owns it; no more than that: not a superuser. The official image runs this
# once, when its data folder is new, with the superuser's socket.
set -eu

{
    # psql reads it itself: so it shows in no list of processes
    printf '%s\n' "\\set password \`cat '$DATABASE_PASSWORD_FILE'\`"
    echo "CREATE ROLE app LOGIN PASSWORD :'password';"
    echo "CREATE DATABASE claims OWNER app;"
} | psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres
