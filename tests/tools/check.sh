#!/usr/bin/env bash
# Lints one crate with all its targets and runs its unit tests: what to run while working on it.
#
# usage: check.sh CRATE      `wal` and `tidemark-wal` are the same
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

crates="$(cargo metadata --no-deps --format-version 1 | grep -o '"name":"tidemark-[^"]*","version"' | cut -d '"' -f 4 | sort)"
name="${1:-}"
crate="tidemark-${name#tidemark-}"
if ! grep -qx "$crate" <<<"$crates"; then
    echo "check: which crate? As in: make check CRATE=wal. There are:" $(sed 's/^tidemark-//' <<<"$crates") >&2
    exit 1
fi
# With what this crate alone depends on: a change of the protocol builds no engine.
cargo clippy --quiet -p "$crate" --all-targets -- -D warnings
cargo test --quiet -p "$crate" --lib
