#!/bin/sh
# The secrets of a deployment, one file each, made once. docker-compose runs it before everything else; it also runs on a
# host. It needs sh, tr, head and /dev/urandom.
#
#   make.sh                    makes the files that are missing; never changes one that is there
#   make.sh put NAME < FILE    puts one of yours in its place, instead of one that was made
#   make.sh show NAME          prints one
#
# Files lie in SECRETS_DIR. A container gets only the folders that it needs.
set -eu

SECRETS_DIR=${SECRETS_DIR:-/run/secrets}
NAMES="database/password postgres/superuser_password redis/password payments/token grafana/admin_password"
NAMES="$NAMES metrics/metrics_key keys/api_keys" # in this order: the second has the first in it

# random CHARACTERS LENGTH
random() {
    LC_ALL=C tr -dc "$1" < /dev/urandom | head -c "$2"
}

# The form of project/security/keys.py.
new_key() {
    printf 'cpk_%s_%s' "$(random 0-9a-f 32)" "$(random A-Za-z0-9_- 43)"
}

# What NAME holds when nobody has put anything there.
made() {
    case $1 in
        metrics/metrics_key) new_key ;;
        keys/api_keys)
            echo "# NAME SCOPE[,SCOPE...] KEY. The step \"migrate\" makes those that are not there yet."
            echo "admin claims:write,claims:read,providers:read,operate $(new_key)"
            echo "prometheus metrics:read $(cat "$SECRETS_DIR/metrics/metrics_key")"
            ;;
        *) random A-Za-z0-9 40 ;;
    esac
}

# store NAME: from standard input; whole or not at all, readable for its owner and its group.
store() {
    file=$SECRETS_DIR/$1
    mkdir -p "${file%/*}"
    rm -f "$file.part"
    (umask 077 && cat > "$file.part")
    if [ ! -s "$file.part" ]; then
        rm -f "$file.part"
        echo "make.sh: nothing came for $1" >&2
        exit 1
    fi
    chmod 440 "$file.part"
    mv -f "$file.part" "$file"
}

known() {
    for name in $NAMES; do
        [ "$name" = "$1" ] && return
    done
    echo "make.sh: there is no secret $1; there are $NAMES" >&2
    exit 1
}

case ${1:-make} in
    make)
        for name in $NAMES; do
            [ -e "$SECRETS_DIR/$name" ] || made "$name" | store "$name"
        done
        ;;
    put)
        known "${2:-}"
        store "$2"
        ;;
    show)
        known "${2:-}"
        cat "$SECRETS_DIR/$2"
        ;;
    *)
        echo "usage: make.sh [make | put NAME | show NAME]" >&2
        exit 1
        ;;
esac
