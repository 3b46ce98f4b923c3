#!/usr/bin/env bash
# Installs the Python packages of tests/tools/FAMILY/requirements.txt, with its versions and digests, into an environment in the cache, and
# prints that environment's folder. Two runs at once wait for each other. Progress goes to standard error.
#
# usage: python.sh FAMILY        (schemathesis, foreign-readers, feed-clients, sink-clients)
# exit code 3: there is no Python that can make an environment, and none can be installed here; 4: the registry does not answer
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

family="${1:?usage: python.sh FAMILY}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$family"

usable() { python3 -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if ! usable; then
    if ! may_install; then
        echo "$family: needs Python 3.11 or newer with venv; run 'apt-get install python3-venv'" >&2
        exit 3
    fi
    echo "$family: installing Debian's package python3-venv" >&2
    install_packages python3-venv
    usable || { echo "$family: Python is older than 3.11" >&2; exit 3; }
fi

# An environment belongs to one Python.
lock="$({ cat "$here/requirements.txt"; python3 -c 'import sys; print(sys.version, sys.base_prefix)'; } | sha256sum | cut -c1-16)"
cache="$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/tidemark")"
folder="$cache/$family-$lock"
if [ ! -e "$folder/complete" ]; then
    mkdir -p "$cache"
    exec 9>"$folder.lock"
    flock 9
    # Somebody else may have installed it meanwhile. What an interrupted installation left is made again.
    if [ ! -e "$folder/complete" ]; then
        echo "$family: installing it from Python packages" >&2
        python3 -m venv --clear "$folder" >&2
        code=0
        timeout --kill-after=10 600 "$folder/bin/python" -m pip install --quiet --retries 10 --disable-pip-version-check --only-binary :all: --require-hashes \
            --requirement "$here/requirements.txt" >"$folder/pip.log" 2>&1 || code=$?
        cat "$folder/pip.log" >&2
        if [ "$code" -ne 0 ]; then
            # Only what is no fault of the lock file's: no answer, or one that the registry is not well.
            if [ "$code" -eq 124 ] || grep -qE 'Max retries exceeded|NewConnectionError|Temporary failure in name resolution|timed out|HTTP error (403|429|5[0-9][0-9])' "$folder/pip.log"; then
                echo "$family: the registry does not answer" >&2
                exit 4
            fi
            exit 1
        fi
        : >"$folder/complete"
    fi
fi
echo "$folder"
