#!/usr/bin/env bash
# Installs the packages of tests/tools/FAMILY/package-lock.json into the cache, once a lock file, and prints their folder.
# Two runs at once wait for each other. Progress goes to standard error. No package runs a script of its own.
#
# usage: npm.sh FAMILY        (azurite)
set -euo pipefail

family="${1:?usage: npm.sh FAMILY}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$family"
lock="$(cat "$here/package.json" "$here/package-lock.json" | sha256sum | cut -c1-16)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tidemark"
folder="$cache/$family-$lock"

if [ ! -d "$folder" ]; then
    if ! command -v npm >/dev/null; then
        echo "$family: npm is not installed, so it cannot be installed; install Node.js 20 or newer" >&2
        exit 1
    fi
    mkdir -p "$cache"
    exec 9>"$cache/$family-$lock.lock"
    flock 9
    # Somebody else may have installed them meanwhile.
    if [ ! -d "$folder" ]; then
        echo "$family: installing the packages of its lock file" >&2
        # In another folder, and moved: an interrupted run leaves nothing that looks finished.
        new="$(mktemp -d "$cache/$family.XXXXXX")"
        trap 'rm -rf "$new"' EXIT
        cp "$here/package.json" "$here/package-lock.json" "$new/"
        (cd "$new" && npm ci --ignore-scripts --no-audit --no-fund --omit=optional) >&2
        mv "$new" "$folder"
    fi
fi
echo "$folder"
