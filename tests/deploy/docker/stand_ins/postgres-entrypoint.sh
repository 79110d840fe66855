#!/bin/sh
# The part of the entry point of the public image `postgres` that EcoLink uses.
set -eu
case "${1:-}" in -*) set -- postgres "$@" ;; esac
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" && chown -R postgres:postgres "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
user=${POSTGRES_USER:-postgres}
password=${POSTGRES_PASSWORD:-$(cat "${POSTGRES_PASSWORD_FILE:?}")}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA" && chmod 700 "$PGDATA"
    printf '%s' "$password" > /tmp/password
    # PostgreSQL 18 has checksums by default.
    # shellcheck disable=SC2086
    initdb --username="$user" --pwfile=/tmp/password --auth-host=scram-sha-256 --data-checksums \
        ${POSTGRES_INITDB_ARGS:-}
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    # The temporary server is not reachable over TCP.
    pg_ctl -w -o "-c listen_addresses='' -c unix_socket_directories=/tmp" start
    if [ "${POSTGRES_DB:-$user}" != postgres ]; then
        createdb -h /tmp -U "$user" "${POSTGRES_DB:-$user}"
    fi
    pg_ctl -w -m fast stop
fi
exec "$@"
