#!/usr/bin/env bash
# Everything that `make test` does: the real servers, the build, every test, lints, the simulation. Stops at nothing: each
# step runs, and the last lines say how long each took, what failed, what was skipped and how many tests passed.
#
# Steps that wait for one another's results follow each other in a lane; lanes run side by side. What only computes runs beside
# the tests, which mostly wait. The tests of the whole cluster, which measure how long search is silent, come last and alone.
#
# With CI=true nothing may be skipped that a machine with the toolchains and root can have. With RUN_SECONDS what runs after so many
# seconds is ended, and the last lines name it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/tools/steps.sh
begin_steps

done_with() { : >"$STEPS/$1.done"; }
after() { for lane; do until [ -e "$STEPS/$lane.done" ] || [ -e "$STEPS/over" ]; do sleep 1; done; done; }

# The lane of the real servers: programs of Go, which both cores build.
go_lane() {
    for family in kubernetes minio etcd coredns helm pause; do
        step "go $family" tests/tools/go.sh "$family"
    done
    done_with go
}

# A registry of packages that is down, and that only these tests need, stops no run, not even in CI.
azurite() {
    local code=0
    tests/tools/npm.sh azurite || code=$?
    [ "$code" -ne 4 ] || { CI='' skip "the stores' conformance on azurite (no answer of a registry)"; return 0; }
    return "$code"
}

# python_packages FAMILY WHAT: the same of Python's packages.
python_packages() {
    local code=0
    tests/tools/python.sh "$1" || code=$?
    [ "$code" -ne 4 ] || { CI='' skip "$2 (no answer of a registry)"; return 0; }
    return "$code"
}

# The same of OpenSearch, from Maven's.
opensearch() {
    local code=0
    tests/tools/maven.sh opensearch || code=$?
    [ "$code" -ne 4 ] || { CI='' skip "sinks to a real OpenSearch (no answer of a registry)"; return 0; }
    return "$code"
}

# The lane of Debian's packages: one step at a time, since apt-get does not wait for the lock on its lists.
package_lane() {
    if [ "$(id -u)" -ne 0 ]; then
        skip "the whole cluster: tests/tests/cluster (needs root, for namespaces and control groups)"
    elif otherwise="the whole cluster: tests/tests/cluster (no containerd)" step "containerd" tests/tools/debian.sh; then
        : >"$STEPS/containerd"
    fi
    otherwise="the API against its document (no Python)" step "schemathesis" python_packages schemathesis "the API against its document"
    otherwise="the archive in other readers (no Python)" step "foreign readers" python_packages foreign-readers "the archive in other readers"
    otherwise="the changes in other clients (no Python)" step "feed clients" python_packages feed-clients "the changes in other clients"
    otherwise="sinks to clients of Python (no Python)" step "sink clients" python_packages sink-clients "sinks to clients of Python"
    otherwise="sinks to a real OpenSearch (no Java)" step "opensearch" opensearch
    otherwise="the page in a browser (no Chromium)" step "chromium" tests/tools/chromium.sh
    otherwise="the stores' conformance on azurite (no Node.js)" step "azurite" azurite
    done_with packages
}

# run_programs CONDITION [ARGUMENT...]: runs the test programs that step "build" has told of and a condition of awk takes: its fields
# are those of programs.sh, `tests` is the folder of the crate `tidemark-tests`.
run_programs() {
    local condition="$1"
    shift
    awk -F '\t' -v tests="$(pwd)/tests" "NF == 3 && ($condition)" "$(log_of build)" | nice -n 5 tests/tools/run-programs.sh "$@"
}
is_servers='$1 == tests && $2 == "servers"'
is_unit='$1 != tests || ($2 != "local" && $2 != "servers" && $2 != "cluster")'

# The lane of the tests that need no server.
test_lane() {
    step "unit tests" run_programs "$is_unit"
    done_with units
    step "local tests" run_programs '$1 == tests && $2 == "local"'
    done_with tests
}

# The lane of the tests that need servers and no cluster. Most of their time is waiting for a server or for an interval to pass, as it is of
# the local tests', beside which they run; unit tests compute.
server_lane() {
    after units go packages image
    if [ -e "$STEPS/image.ok" ]; then export_built; fi
    TIDEMARK_CHROMIUM="$(tail -n 1 "$(log_of chromium)")"
    export TIDEMARK_CHROMIUM
    step "server tests" run_programs "$is_servers" --test-threads=4 --skip sink_peers::
    done_with servers
}

# The lane of the tests with others' servers as destinations of sinks: minutes in which hardly anything computes, so that they would be what
# everything else waits for at the end.
peer_lane() {
    after packages
    step "sink peer tests" run_programs "$is_servers" sink_peers::
    done_with peers
}

# The lane of the tests that need a cluster.
cluster_lane() {
    # Beside other tests queries time out that a quiet machine answers: seen in `failures`.
    after go packages image tests servers peers low
    local program
    program="$(program_named cluster)"
    if [ -e "$STEPS/containerd" ] && [ -e "$STEPS/image.ok" ]; then
        export_built
        CLUSTER_PROGRAM="$program" tests/tools/cluster-tests.sh
    else
        "$program" --list --ignored --format terse | grep -c ': test$' >"$STEPS/uncounted"
    fi
}

deny() {
    local code=0
    tests/tools/deny.sh || code=$?
    [ "$code" -ne 3 ] || { echo "cargo-deny is not installed, 'make deny' builds it; a local test has checked licences and sources"; return 0; }
    return "$code"
}

# The lane of what only computes.
low_lane() {
    step "lint" nice -n 15 cargo clippy "${product[@]}" --all-targets --quiet -- -D warnings
    # The second also sees `tidemark` with the features that demo.sh builds it with.
    step "lint simulation and demo" nice -n 15 cargo clippy \
        -p tidemark-sim -p tidemark-indexer --no-default-features --features tidemark-sim/tantivy,tidemark-indexer/demo --all-targets --quiet -- -D warnings
    # The whole workspace is named, so that the dependencies are the ones that step "build" has built, with the same features.
    step "simulation" nice -n 15 cargo test --workspace --features tidemark-sim/tantivy --test simulation --no-fail-fast
    # For the next fresh clone: by now everything of others is built that a run needs.
    [ "$(tail -n 1 "$(log_of "built crates")")" != "nothing kept yet" ] || step "keep crates" nice -n 15 tests/tools/crates.sh keep
    done_with low
    step "doc tests" nice -n 15 cargo test "${product[@]}" --doc --no-fail-fast
    step "dependencies" deny
}

if [ -n "${RUN_SECONDS:-}" ]; then
    end_after "$RUN_SECONDS" &
    watch=$!
fi
go_lane &
package_lane &
step "format" cargo fmt --all --check
step "built crates" tests/tools/crates.sh restore
if step "build" tests/tools/programs.sh; then
    TIDEMARK_PROGRAM="$(programs_of demo)/tidemark"
    export TIDEMARK_PROGRAM
    test_lane &
    server_lane &
    peer_lane &
    low_lane &
    cluster_lane &
    # The images are of the programs that are built already.
    image_tools="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/debug"
    if step "image" env BINARIES="$(programs_of product)" IMAGE_TOOLS="$image_tools" tests/tools/image.sh dev &&
        step "demo image" env BINARIES="$(programs_of demo)" IMAGE_TOOLS="$image_tools" tests/tools/image.sh dev demo; then
        : >"$STEPS/image.ok"
    fi
    done_with image
else
    low_lane &
fi
# All but the watch, which waits for its time.
for job in $(jobs -p); do [ "$job" = "${watch:-}" ] || wait "$job"; done
[ -z "${watch:-}" ] || { end_below "$watch"; kill "$watch" 2>/dev/null; }
summary
