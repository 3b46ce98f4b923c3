#!/usr/bin/env bash
# Builds tidemark, lets it search the history of the repository around it, and says where to look. Ctrl-C ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

listen="${LISTEN:-127.0.0.1:7280}"
folder="${DIR:-target/demo}"
git="${GIT:-.}"

program="${TIDEMARK_PROGRAM:-}"
if [ -z "$program" ]; then
    echo "building tidemark (some minutes the first time)"
    cargo build --profile unoptimized -p tidemark-indexer --no-default-features --features demo --bin tidemark
    program="${CARGO_TARGET_DIR:-target}/unoptimized/tidemark"
fi

"$program" dev --git "$git" --dir "$folder" --listen "$listen" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server"' EXIT
trap 'exit 130' INT TERM

# Answers once the first commits have gone through the log and into the index.
answer=""
until [[ "$answer" == *'"token"'* ]]; do
    kill -0 "$server" 2>/dev/null || exit 1
    sleep 0.5
    answer="$(curl -fsS "http://$listen/v1/search?kind=bundle&size=1" 2>/dev/null || true)"
done

cat <<TEXT

  the page:   http://$listen/
  a search:   curl 'http://$listen/v1/search?q=test&kind=bundle&size=3'

It follows the log in "$folder" until Ctrl-C.
TEXT
wait "$server"
