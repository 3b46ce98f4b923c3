#!/usr/bin/env bash
# Installs the packages of tests/tools/FAMILY/package-lock.json into the cache, once a lock file, and prints their folder.
# Two runs at once wait for each other. Progress goes to standard error. No package runs a script of its own.
#
# usage: npm.sh FAMILY        (azurite)
# exit code 3: there is no Node.js with npm, and none can be installed here; 4: a registry does not answer
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

family="${1:?usage: npm.sh FAMILY}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$family"

usable() { command -v npm >/dev/null && node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' 2>/dev/null; }

if ! usable; then
    if ! may_install; then
        echo "$family: needs Node.js 20 or newer with npm; run 'apt-get install npm'" >&2
        exit 3
    fi
    echo "$family: installing Debian's package npm" >&2
    install_packages npm || exit 4
    usable || { echo "$family: Node.js is older than 20" >&2; exit 3; }
fi

lock="$(cat "$here/package.json" "$here/package-lock.json" | sha256sum | cut -c1-16)"
cache="$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/tidemark")"
folder="$cache/$family-$lock"
if [ ! -d "$folder" ]; then
    mkdir -p "$cache"
    exec 9>"$folder.lock"
    flock 9
    # Somebody else may have installed them meanwhile.
    if [ ! -d "$folder" ]; then
        echo "$family: installing the packages of its lock file" >&2
        # In another folder, and moved: an interrupted run leaves nothing that looks finished.
        new="$(mktemp -d "$cache/$family.XXXXXX")"
        trap 'rm -rf "$new"' EXIT
        cp "$here/package.json" "$here/package-lock.json" "$new/"
        for try in 1 2 3; do
            code=0
            (cd "$new" && timeout 120 npm ci --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=5000 --ignore-scripts --no-audit --no-fund --omit=optional) >"$new/npm.log" 2>&1 || code=$?
            cat "$new/npm.log" >&2
            [ "$code" -ne 0 ] || break
            echo "$family: try $try of 3 failed" >&2
        done
        if [ "$code" -ne 0 ]; then
            # Only what is no fault of the lock file's: no answer (124: of `timeout`), or one that the registry is not well.
            if [ "$code" -eq 124 ] || grep -qE 'code (E(NOTFOUND|AI_AGAIN|CONN[A-Z]*|TIMEDOUT|HOSTUNREACH|NETUNREACH|SOCKETTIMEOUT)|ERR_SOCKET_TIMEOUT|E403|E429|E5[0-9][0-9])' "$new/npm.log"; then
                echo "$family: the registry does not answer" >&2
                exit 4
            fi
            exit 1
        fi
        mv "$new" "$folder"
    fi
fi
echo "$folder"
