#!/usr/bin/env bash
# What takes hours, and is too much for `make test`: many seeds of the simulation, a large git history, the SQL recipes with
# Spark, and benchmarks at their largest. Figures go to the terminal; the last run's belong into BENCHMARKS.md, with commit and
# date. Stops at nothing: each step runs, and the last lines say how long each took and what failed.
#
# environment: LONG_SEEDS (20000) of each scenario, LONG_ROUNDS (10) of property tests, LONG_RECORDS (20000) to sinks that are killed,
# LONG_ENTRIES (10000000), LONG_WALS (10000)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/tools/steps.sh
begin_steps

seeds="${LONG_SEEDS:-20000}" entries="${LONG_ENTRIES:-10000000}" wals="${LONG_WALS:-10000}"
rounds="${LONG_ROUNDS:-10}"
target="${CARGO_TARGET_DIR:-$(pwd)/target}"
disk="$target/limited"

# Runs the growth benchmark on a disk of 1 GiB with 384 MiB of memory.
limited_growth() {
    local code=0
    tests/tools/limited.sh disk "$disk" || return
    trap 'tests/tools/limited.sh free "$disk"' EXIT
    TIDEMARK_PROGRAM="$(pwd)/tests/tools/limited.sh" LIMITED_PROGRAM="$target/release/tidemark" BENCH_CACHE_DIR="$disk" \
        TIDEMARK_CACHE_MIB=900 BENCH_GROWTH="$entries" cargo bench -p tidemark-tests --bench growth || code=$?
    trap - EXIT
    tests/tools/limited.sh free "$disk" && return "$code"
}

echo "long: commit $(git describe --always --dirty), $(date -u +%F), $(nproc) cores"
echo "long: a Prometheus that runs the chart's alerts is not here yet: it has no test to run"

step "simulation" tests/tools/sim.sh "$seeds"
# CI gives property tests the same inputs in each run; here each round has others. A failure names its input.
unset PROPTEST_RNG_SEED
for round in $(seq "$rounds"); do
    step "properties, round $round" cargo test "${product[@]}" --lib --test pipeline --test catalog --test store --no-fail-fast
done
# On simulated time: a year of an idle index, a day of a busy one, and crashes at every step of what is long.
step "the long tests of the indexer" cargo test -p tidemark-tests --test pipeline -- --ignored --nocapture
# Sinks, their destination and both at once are killed, with faults of the store between, until all records are through.
step "sinks killed" env SINK_RECORDS="${LONG_RECORDS:-20000}" cargo test "${product[@]}" --test local -- --nocapture \
    every_record_arrives_in_order_however_often_sink_and_destination_are_killed
step "git history" cargo test -p tidemark-indexer --lib --features demo -- --ignored --nocapture a_hundred_thousand_commits
# Fetches Spark into the cache (900 MiB from Maven Central; needs Java 17 and Maven), then runs both of its recipes of docs/sql.md,
# through the catalog and by path, on an archive of five snapshots, two compactions and a restore, and compares with search.
step "Spark" cargo test "${product[@]}" --test servers -- --ignored --nocapture sql_recipes::
# One after the other: they measure memory and time.
step "segments and terms" cargo test --profile bench -p tidemark-search --lib -- --ignored --nocapture --test-threads=1 \
    the_time_of_a_million_terms the_size_of_a_segment the_memory_of_an_open_segment
if step "release build" cargo build --release -p tidemark-indexer -p tidemark-operator; then
    export TIDEMARK_PROGRAM="$target/release/tidemark"
    step "memory" cargo test -p tidemark-tests --test local -- --ignored --nocapture memory::
    step "growth" env BENCH_GROWTH="1000000,$entries" cargo bench -p tidemark-tests --bench growth
    if [ "$(id -u)" = 0 ]; then
        step "growth, limited" limited_growth
    else
        skip "growth on a small disk with little memory (needs root)"
    fi
    step "scale" cargo bench -p tidemark-tests --bench scale
    step "jobs" env BENCH_JOBS="100000,1000000,$entries" cargo bench -p tidemark-tests --bench jobs
    step "WALs" env WALS="$wals" cargo bench -p tidemark-tests --bench wals
fi
summary
