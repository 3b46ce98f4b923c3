#!/usr/bin/env bash
# Runs the tests of a kind: by cargo-nextest where that is installed and serves, else by cargo.
#
# usage: suite.sh unit|local|servers [ONLY]      ONLY: a part of the names of tests, as in `conformance::memory`
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/tools/steps.sh

kind="${1:?usage: suite.sh unit|local|servers [ONLY]}" only=("${@:2}")

# The test programs that crates have beside their unit tests, from what cargo knows of the workspace: all but those of
# `tidemark-tests` and of the simulation.
tests_of_crates() {
    cargo metadata --no-deps --format-version 1 | sed 's/{"kind"/\n&/g' |
        sed -n "s|^{\"kind\":\\[\"test\"\\].*\"name\":\"\\([^\"]*\\)\",\"src_path\":\"$(pwd)/\\([^\"]*\\)\".*|\\2 \\1|p" |
        awk '$1 !~ /^tests\// { print "--test"; print $2 }'
}

case "$kind" in
unit) mapfile -t targets < <(printf '%s\n' --lib; tests_of_crates) ;;
local | servers)
    targets=(--test "$kind")
    TIDEMARK_PROGRAM="$(tests/tools/binaries.sh demo)/tidemark"
    export TIDEMARK_PROGRAM
    ;;
*) echo "suite: \"$kind\" is neither unit, local nor servers" >&2; exit 1 ;;
esac

# Tests of `servers` share an API server within one process; nextest would start one a test.
if [ "$kind" != servers ] && cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --profile "$kind" "${product[@]}" "${targets[@]}" "${only[@]}"
fi
exec cargo test --quiet --no-fail-fast "${product[@]}" "${targets[@]}" -- "${only[@]}"
