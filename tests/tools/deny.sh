#!/usr/bin/env bash
# Checks licences, bans and sources of every dependency. Builds cargo-deny into the cache when told to.
# Advisories are left out: their database is not in a package registry.
set -euo pipefail

version=0.20.2
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tidemark/cargo-deny-$version"
if command -v cargo-deny >/dev/null; then
    program=cargo-deny
elif [ -x "$cache/bin/cargo-deny" ]; then
    program="$cache/bin/cargo-deny"
elif [ "${1:-}" = --build ]; then
    mkdir -p "$(dirname "$cache")"
    exec 9>"$cache.lock"
    flock 9
    CARGO_TARGET_DIR="$cache/target" cargo install --locked --root "$cache" --version "$version" cargo-deny
    rm -rf "$cache/target"
    program="$cache/bin/cargo-deny"
else
    exit 3
fi
"$program" check --hide-inclusion-graph licenses bans sources
