#!/usr/bin/env bash
# Keeps other people's crates as they are built, once a lock file, and gives them to a target folder that is empty, so that the build of a
# fresh clone compiles this repository's own crates alone. Cargo looks at each and builds again what does not fit.
#
# usage: crates.sh restore|keep        restore: prints "restored" or "nothing kept yet"; a target folder that holds something stays as it is
#                                      keep: of everything in the target folder that is not this repository's
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# What decides how a crate is built: versions and features, the compiler, the profile, flags.
key="$({
    find . -name target -prune -o -name Cargo.toml -print | sort | xargs cat Cargo.lock .cargo/config.toml
    rustc -vV
    env | grep -E '^(CARGO_(BUILD|PROFILE|INCREMENTAL|ENCODED|TARGET_[A-Z])|RUSTFLAGS)' | grep -v '^CARGO_TARGET_DIR=' | sort || true
} | sha256sum | cut -c1-16)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tidemark"
kept="$cache/crates-$key"
target="${CARGO_TARGET_DIR:-target}/debug"

case "${1:?usage: crates.sh restore|keep}" in
restore)
    if [ -d "$target/deps" ]; then
        echo "there is a target folder"
    elif [ -d "$kept" ]; then
        # What is used is not what another run removes.
        touch "$kept"
        mkdir -p "$target"
        cp -a --reflink=auto "$kept/." "$target/"
        echo "restored"
    else
        echo "nothing kept yet"
    fi
    ;;
keep)
    [ ! -d "$kept" ] || exit 0
    mkdir -p "$cache"
    # Moved when it is whole: an interrupted run leaves nothing that looks finished.
    new="$(mktemp -d "$cache/.crates.XXXXXX")"
    trap 'rm -rf "$new"' EXIT
    mkdir "$new/deps"
    # Own crates are all called so, their tests are programs and no libraries.
    (cd "$target" && find .fingerprint build -mindepth 1 -maxdepth 1 ! -name 'tidemark*' -print0 | xargs -0 cp -a --parents --reflink=auto -t "$new")
    (cd "$target" && find deps -maxdepth 1 -type f \( -name '*.rlib' -o -name '*.rmeta' -o -name '*.so' \) ! -name 'libtidemark*' -print0 |
        xargs -0 cp -a --reflink=auto -t "$new/deps")
    mv -T "$new" "$kept" 2>/dev/null || [ -d "$kept" ]
    # Two are enough: this one, and that of another branch.
    ls -dt "$cache"/crates-* | tail -n +3 | xargs -r rm -rf
    du -sh "$kept" | cut -f 1
    ;;
*)
    echo "crates: the command is restore or keep, not \"$1\"" >&2
    exit 1
    ;;
esac
