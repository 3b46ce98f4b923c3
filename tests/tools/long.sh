#!/usr/bin/env bash
# What takes hours, and is too much for `make test`: many seeds of the simulation, and benchmarks at their largest. Figures
# go to the terminal; the last run's belong into BENCHMARKS.md, with commit and date.
#
# environment: LONG_SEEDS (20000) of each scenario, LONG_ENTRIES (10000000), LONG_WALS (10000)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seeds="${LONG_SEEDS:-20000}" entries="${LONG_ENTRIES:-10000000}" wals="${LONG_WALS:-10000}"
target="${CARGO_TARGET_DIR:-$(pwd)/target}"

echo "long: commit $(git describe --always --dirty), $(date -u +%F), $(nproc) cores"
echo "long: Spark that reads the archive, and a Prometheus that runs the chart's alerts, are not here yet: neither has a test to run"

tests/tools/sim.sh "$seeds"
# A year of an idle index and a day of a busy one, on simulated time.
cargo test -p tidemark-ingest --test pipeline days:: -- --ignored --nocapture
cargo build --release -p tidemark-indexer -p tidemark-operator
export TIDEMARK_PROGRAM="$target/release/tidemark"
BENCH_GROWTH="1000000,$entries" cargo bench -p tidemark-tests --bench growth
if [ "$(id -u)" = 0 ]; then
    # The same on a disk of 1 GiB with 384 MiB of memory.
    disk="$target/limited"
    tests/tools/limited.sh disk "$disk"
    trap 'tests/tools/limited.sh free "$disk"' EXIT
    TIDEMARK_PROGRAM="$(pwd)/tests/tools/limited.sh" LIMITED_PROGRAM="$target/release/tidemark" BENCH_CACHE_DIR="$disk" \
        TIDEMARK_CACHE_MIB=900 BENCH_GROWTH="$entries" cargo bench -p tidemark-tests --bench growth
    tests/tools/limited.sh free "$disk"
    trap - EXIT
else
    echo "long: not root, so nothing runs on a small disk with little memory"
fi
BENCH_COMPACTION=true cargo bench -p tidemark-tests --bench scale
WALS="$wals" cargo bench -p tidemark-tests --bench wals
