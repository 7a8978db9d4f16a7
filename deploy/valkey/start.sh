#!/bin/sh
# Valkey with the password of a file. It comes by standard input: it shows in no list of processes, and lies on no disk.
# As in project/engines/valkey.py, data is written within a second. Beyond --maxmemory a write is refused: ranking and
# limiter do without, events wait in Postgres.
set -eu

password=$(sed 's/[\\"]/\\&/g' "$REDIS_PASSWORD_FILE")
exec valkey-server --port "${REDIS_PORT:-6379}" --dir "${REDIS_DIR:-/data}" \
    --appendonly yes --appendfsync everysec --save "" \
    --maxmemory 256mb --maxmemory-policy noeviction - <<CONFIG
requirepass "$password"
CONFIG
