#!/usr/bin/env bash
# Everything that `make test` does: lints, builds, the real servers, every test. Stops at nothing: each step runs, and
# the last lines say what failed, what was skipped and how many tests passed.
#
# With CI=true nothing may be skipped that a machine with the toolchains and root can have, but for cargo-deny: it would have
# to be built first, and what it checks changes with Cargo.lock alone.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

logs="target/test-logs/run-$$"
mkdir -p "$logs"
failed=() skipped=()
product=(--workspace --exclude tidemark-sim)

# step NAME COMMAND...: runs it, shows what it says, and remembers whether it failed.
step() {
    local name="$1" from=$SECONDS
    shift
    echo "==> $name"
    if "$@" 2>&1 | tee "$logs/${name// /-}.log"; then
        echo "<== $name: ok, $((SECONDS - from)) s"
    else
        failed+=("$name")
        echo "<== $name: FAILED, $((SECONDS - from)) s"
        return 1
    fi
}

# finish_one: waits for one of the processes in `running` and shows what it said.
declare -A started=()
finish_one() {
    local process state
    if wait -n -p process "${!running[@]}"; then state=ok; else state=FAILED; fi
    local name="${running[$process]}"
    unset "running[$process]"
    cat "$logs/$name.log"
    echo "<== $name: $state, $((SECONDS - started[$process])) s"
    [ "$state" = ok ] || failed+=("$name")
}

# A tool that may be missing on a person's machine, but not in CI.
skip() {
    if [ "${CI:-}" = true ]; then
        failed+=("$1")
    else
        skipped+=("$1")
    fi
}

step "format" cargo fmt --all --check
step "lint" cargo clippy "${product[@]}" --all-targets --quiet -- -D warnings
# The simulation turns on planted faults, which must not leak into the product: always a command of its own.
step "lint simulation" cargo clippy -p tidemark-sim --features tantivy --all-targets --quiet -- -D warnings

echo "==> dependencies"
tests/tools/deny.sh
case $? in
0) ;;
3) skipped+=("dependencies (cargo-deny is not installed; 'make deny' builds it)") ;;
*) failed+=("dependencies") ;;
esac

for family in minio etcd kubernetes coredns helm pause; do
    step "$family" tests/tools/go.sh "$family"
done
cluster=""
if [ "$(id -u)" -ne 0 ]; then
    skip "the whole cluster: tests/cluster_* (needs root, for namespaces and control groups)"
elif step "containerd" tests/tools/debian.sh; then
    cluster=yes
else
    unset 'failed[-1]'
    skip "the whole cluster: tests/cluster_* (no containerd)"
fi
if step "chromium" tests/tools/chromium.sh; then
    TIDEMARK_CHROMIUM="$(tail -n 1 "$logs/chromium.log")"
    export TIDEMARK_CHROMIUM
else
    unset 'failed[-1]'
    skip "the page in a browser (no chromium)"
fi

if step "build" cargo build "${product[@]}" --all-targets --quiet; then
    built="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug"
    export TIDEMARK_PROGRAM="$built/tidemark"
    # The image is of the programs that are built already.
    if step "image" env BINARIES="$built" IMAGE_TOOLS="$built" tests/tools/image.sh dev; then
        TIDEMARK_IMAGE="$(tail -n 1 "$logs/image.log")"
        export TIDEMARK_IMAGE
    fi
    # The build of the tests has the feature `demo` on.
    if step "demo image" env BINARIES="$built" IMAGE_TOOLS="$built" tests/tools/image.sh dev demo; then
        TIDEMARK_DEMO_IMAGE="$(tail -n 1 "$logs/demo-image.log")"
        export TIDEMARK_DEMO_IMAGE
    fi
    step "tests" cargo test "${product[@]}" --no-fail-fast
    if [ -n "$cluster" ]; then
        # They mostly wait, each on a Kubernetes of its own, whose requests alone are counted: two at a time.
        declare -A running=()
        for file in tests/tests/cluster_*.rs; do
            [ ${#running[@]} -lt 2 ] || finish_one
            name="$(basename "$file" .rs)"
            echo "==> $name"
            cargo test "${product[@]}" --test "$name" -- --ignored --test-threads=1 --show-output >"$logs/$name.log" 2>&1 &
            running[$!]="$name"
            started[$!]=$SECONDS
        done
        while [ ${#running[@]} -gt 0 ]; do finish_one; done
    fi
fi
step "simulation" cargo test -p tidemark-sim --features tantivy --no-fail-fast

echo
[ ${#skipped[@]} -eq 0 ] || printf 'skipped: %s\n' "${skipped[@]}"
[ ${#failed[@]} -eq 0 ] || printf "failed: %s (its log is in $logs)\n" "${failed[@]}"
# Tests of the whole cluster are ignored in the first run and have their own.
cat "$logs"/tests.log "$logs"/simulation.log "$logs"/cluster_*.log 2>/dev/null |
    awk -v cluster="$cluster" '
        /Running .*tests\/cluster_/ { whole = 1 } /Running / && !/tests\/cluster_/ { whole = 0 }
        /^test result:/ { passed += $4; failed += $6; if (!whole || !cluster) ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }'
[ ${#failed[@]} -eq 0 ]
