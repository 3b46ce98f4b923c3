#!/usr/bin/env bash
# Runs the tests of a whole cluster: groups of tests, each group in a process with a cluster of its own and one test after
# the other, CLUSTERS (2) groups at a time: most of the time is waiting, but with three, queries time out on two cores.
#
# usage: cluster-tests.sh [ONLY]      ONLY: the beginning of the names of tests, as in `first_hour::readme`
# environment: CLUSTER_PROGRAM    the test program, when it is built already
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
owner="${STEPS:-}"
. tests/tools/steps.sh
begin_steps

# The groups, the longest first: the beginnings of their tests' names. A test that none of them names runs with the others of
# its module that none names, last. Groups of a module cost a cluster each: split one where that ends sooner.
groups=(
    "failures::the_store failures::no_operator failures::the_leading failures::etcd failures::a_sinks"
    "first_hour::quiet first_hour::tasks"
    "failures"
    "first_hour::readme first_hour::wishes"
    "upgrade"
    "refusals::stores refusals::deletion refusals::security"
    "refusals"
    "harness"
)

if [ "$(id -u)" -ne 0 ]; then
    echo "cluster: a whole cluster needs root, for namespaces and control groups; run 'sudo make cluster-test'" >&2
    exit 1
fi
if [ -z "${CLUSTER_PROGRAM:-}" ]; then
    step "containerd" tests/tools/debian.sh || exit 1
    step "build" tests/tools/programs.sh || exit 1
    CLUSTER_PROGRAM="$(program_named cluster)"
    step "image" tests/tools/image.sh dev || exit 1
    step "demo image" tests/tools/image.sh dev demo || exit 1
    export_built
fi

# What each group runs: full names, each test in the first group that names it.
declare -A tests=()
order=("${groups[@]}")
while IFS= read -r name; do
    [[ "$name" == "${1:-}"* ]] || continue
    home="${name%%::*}"
    for group in "${groups[@]}"; do
        for beginning in $group; do
            [[ "$name" != "$beginning"* ]] || { home="$group"; break 2; }
        done
    done
    [[ " ${order[*]} " == *" $home "* ]] || order+=("$home")
    tests[$home]+=" $name"
done < <("$CLUSTER_PROGRAM" --list --ignored --format terse | sed -n 's/: test$//p')

if [ ${#tests[@]} -eq 0 ]; then
    echo "cluster: no test's name begins with \"${1:-}\"" >&2
    exit 1
fi

run_group() { (cd tests && exec "$CLUSTER_PROGRAM" --ignored --exact --test-threads=1 --show-output "$@" </dev/null); }

failed=0
running=0
for group in "${order[@]}"; do
    [ -n "${tests[$group]:-}" ] || continue
    if [ "$running" -ge "${CLUSTERS:-2}" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    # shellcheck disable=SC2086
    step "cluster $group" run_group ${tests[$group]} &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
[ -n "$owner" ] || summary
exit $failed
