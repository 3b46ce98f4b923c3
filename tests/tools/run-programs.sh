#!/usr/bin/env bash
# Runs test programs, each in its package's folder as cargo would; goes on after one that fails.
#
# usage: run-programs.sh [ARGUMENT...] <LINES       the lines are those of programs.sh
set -uo pipefail

# Seconds: the longest program takes 600 on two cores that have nothing else to do. One that hangs does not take the time of what follows.
limit=1800
failed=0
while IFS=$'\t' read -r folder target program; do
    echo "     Running $target of ${folder##*/} ($program)"
    (cd "$folder" && CARGO_MANIFEST_DIR="$folder" exec timeout --kill-after=10 "$limit" "$program" "$@" </dev/null) || failed=1
done
exit $failed
