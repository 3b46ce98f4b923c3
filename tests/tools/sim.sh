#!/usr/bin/env bash
# Runs seeds of every scenario of the simulation.
#
# usage: sim.sh SEEDS [FROM]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seeds="${1:?usage: sim.sh SEEDS [FROM]}" from="${2:-0}"
cargo build --quiet -p tidemark-sim
for scenario in mixed chain cleanup garbage generations locks purge snapshots; do
    echo "$scenario:"
    "${CARGO_TARGET_DIR:-target}/debug/tidemark-sim" --scenario "$scenario" --seeds "$seeds" --from "$from"
done
