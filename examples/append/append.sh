#!/bin/sh
# Appends each line of standard input, a JSON object, to a log through `tidemark append --serve`, and prints the token of each once it is
# committed; of one with "expect" an index has to say later what became of it. Each line should have an "idempotencyKey": what is sent again after a lost answer then counts once.
#
# usage: append.sh ADDRESS < entries.ndjson        ADDRESS: http://127.0.0.1:7285 or unix:/run/tidemark/append.sock
set -eu

case "${1:?usage: append.sh ADDRESS < entries.ndjson}" in
    unix:*) set -- --unix-socket "${1#unix:}" http://localhost/v1/append ;;
    *) set -- "${1%/}/v1/append" ;;
esac

while IFS= read -r entry; do
    # Of the answers curl repeats 429, 503 and 504, after the time in Retry-After.
    answer=$(printf '%s' "$entry" | curl --silent --show-error --fail-with-body --retry 8 --retry-connrefused --max-time 60 \
        --header 'Content-Type: application/json' --data-binary @- "$@") || {
        printf '%s\n' "$answer" >&2
        exit 1
    }
    printf '%s\n' "$answer" | sed -n 's/.*"token":"\([0-9A-Za-z]*\)".*/\1/p'
done
