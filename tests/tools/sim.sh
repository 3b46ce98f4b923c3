#!/usr/bin/env bash
# Runs seeds of every scenario of the simulation, and as many of `generations` with the product's own ingest.
#
# usage: sim.sh SEEDS [FROM]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seeds="${1:?usage: sim.sh SEEDS [FROM]}" from="${2:-0}"
cargo build --quiet -p tidemark-sim
run() {
    echo "$1, seeds from $2 on:"
    "${CARGO_TARGET_DIR:-target}/debug/tidemark-sim" --scenario "$1" --seeds "$seeds" --from "$2"
}
for scenario in mixed chain cleanup garbage generations locks purge snapshots; do
    run "$scenario" "$from"
done
# From this seed on the product decides what its records are (`INGESTED_SEEDS`).
run generations $((1000000 + from))
