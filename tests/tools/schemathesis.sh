#!/usr/bin/env bash
# Installs schemathesis, which tests an API against its OpenAPI document, with the versions and digests of
# schemathesis/requirements.txt into the cache, and prints the path of its program. Two runs at once wait for each other.
# Progress goes to standard error.
#
# usage: schemathesis.sh     exit code 3: there is no Python that can make an environment, and none can be installed here
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/schemathesis"

usable() { python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if ! usable; then
    if ! may_install; then
        echo "schemathesis: needs Python 3.11 or newer with venv; run 'apt-get install python3-venv'" >&2
        exit 3
    fi
    echo "schemathesis: installing Debian's package python3-venv" >&2
    install_packages python3-venv
    usable || { echo "schemathesis: Python is older than 3.11" >&2; exit 3; }
fi

# An environment belongs to one Python.
lock="$({ cat "$here/requirements.txt"; python3 -c 'import sys; print(sys.version, sys.base_prefix)'; } | sha256sum | cut -c1-16)"
cache="$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/tidemark")"
folder="$cache/schemathesis-$lock"
if [ ! -e "$folder/complete" ]; then
    mkdir -p "$cache"
    exec 9>"$folder.lock"
    flock 9
    # Somebody else may have installed it meanwhile. What an interrupted installation left is made again.
    if [ ! -e "$folder/complete" ]; then
        echo "schemathesis: installing it from Python packages" >&2
        python3 -m venv --clear "$folder" >&2
        "$folder/bin/python" -m pip install --quiet --retries 10 --disable-pip-version-check --only-binary :all: --require-hashes \
            --requirement "$here/requirements.txt" >&2
        : >"$folder/complete"
    fi
fi
echo "$folder/bin/schemathesis"
