#!/usr/bin/env bash
# Prints the path of a Chromium for the tests of the page; installs Debian's when it is missing and this user may.
set -euo pipefail

find_it() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

if ! find_it; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "chromium: not installed, and only root on Debian can install it here; run 'apt-get install chromium'" >&2
        exit 1
    fi
    echo "chromium: installing Debian's package chromium" >&2
    {
        apt-get update -qq -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300 chromium
    } >&2
    find_it
fi
