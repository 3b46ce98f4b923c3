#!/usr/bin/env bash
# Builds MinIO from its Go module into the cache, once a lock file, and prints the program's path.
# Two runs at once wait for each other. Progress goes to standard error.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/minio"
lock="$(cat "$here/go.mod" "$here/go.sum" | sha256sum | cut -c1-16)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tidemark"
folder="$cache/minio-$lock"
program="$folder/minio"

if [ ! -x "$program" ]; then
    if ! command -v go >/dev/null; then
        echo "minio: go is not installed, so MinIO cannot be built; install Go 1.26 or newer" >&2
        exit 1
    fi
    mkdir -p "$folder"
    exec 9>"$cache/minio-$lock.lock"
    flock 9
    if [ ! -x "$program" ]; then
        echo "minio: building $(sed -n 's|.*github.com/minio/minio \(v[^ ]*\).*|\1|p' "$here/go.mod") from its Go module, about three minutes on two cores" >&2
        # Linked under another name and moved: an interrupted build leaves nothing that looks finished.
        (cd "$here" && CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly go build -trimpath -ldflags '-s -w' -o "$program.new" github.com/minio/minio) >&2
        mv "$program.new" "$program"
    fi
fi
echo "$program"
