#!/usr/bin/env bash
# Starts a cluster for a person, with the chart and the demo in it, and says what to type. Ctrl-C removes everything.
#
# usage: cluster.sh [--nodes 2] [--bare]      --bare: neither image, chart nor demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ "$(id -u)" -ne 0 ]; then
    echo "cluster: a whole cluster needs root, for namespaces and control groups; run 'sudo make cluster'" >&2
    exit 1
fi
tests/tools/debian.sh
echo "building (some minutes the first time)"
cargo build -p tidemark-tests --bin tidemark-cluster
exec "${CARGO_TARGET_DIR:-target}/debug/tidemark-cluster" "$@"
