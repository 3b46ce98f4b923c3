#!/usr/bin/env bash
# Prints the path of a Chromium for the tests of the page; installs Debian's when it is missing and this user may.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

find_it() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

if ! find_it; then
    if ! may_install; then
        echo "chromium: not installed, and only root on Debian can install it here; run 'apt-get install chromium'" >&2
        exit 1
    fi
    echo "chromium: installing Debian's package chromium" >&2
    install_packages chromium
    find_it
fi
