#!/usr/bin/env bash
# Builds the product's programs, with and without the feature `demo`, and every test program, and prints one line a test program:
# its package's folder, the name of its target, its path. What cargo says goes to standard error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/tools/steps.sh

tests/tools/binaries.sh product >&2
tests/tools/binaries.sh demo >&2
cargo build "${product[@]}" --bins --quiet >&2
# Cargo tells what it built in JSON, one object a line; a test program is a target built as a test that can be executed.
cargo test "${product[@]}" --no-run --message-format=json-render-diagnostics |
    sed -n 's|.*"manifest_path":"\([^"]*\)/Cargo.toml".*"target":{[^}]*"name":"\([^"]*\)".*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*|\1\t\2\t\3|p'
