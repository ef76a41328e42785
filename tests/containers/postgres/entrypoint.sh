#!/bin/bash
# What the official image's entrypoint does with the variables that docker-compose.yml sets.
set -e
if [ "$(id -u)" = 0 ]; then
    install -d -o postgres -g postgres -m 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
: "${POSTGRES_PASSWORD:=$(cat "${POSTGRES_PASSWORD_FILE:-/dev/null}")}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # shellcheck disable=SC2086 # several arguments in one variable, as in the official image
    initdb -D "$PGDATA" --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") $POSTGRES_INITDB_ARGS
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
    PGPASSWORD=$POSTGRES_PASSWORD psql -h /tmp -U "$POSTGRES_USER" -d postgres \
        -c "create database \"$POSTGRES_DB\""
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
