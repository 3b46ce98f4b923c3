#!/usr/bin/env bash
# Runs tidemark in a control group with LIMIT_MEMORY_MIB (384) of memory and no swap: the `TIDEMARK_PROGRAM` of a benchmark.
# Needs root.
#
#   limited.sh disk FOLDER   mounts an empty file system of LIMIT_DISK_MIB (1024) at FOLDER
#   limited.sh free FOLDER   takes it and the group away, and prints how full the group was and what was killed in it
#   limited.sh ...           runs LIMITED_PROGRAM (target/release/tidemark) with these arguments in the group
set -euo pipefail
limit=$((${LIMIT_MEMORY_MIB:-384} << 20))
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    group=/sys/fs/cgroup/tidemark-limited
    limits="memory.max=$limit memory.swap.max=0" figures="memory.peak memory.events"
else
    group=/sys/fs/cgroup/memory/tidemark-limited
    limits="memory.limit_in_bytes=$limit memory.swappiness=0" figures="memory.max_usage_in_bytes memory.oom_control"
fi
case "${1:-}" in
disk)
    mkdir -p "$2"
    truncate -s "${LIMIT_DISK_MIB:-1024}M" "$2.img"
    mkfs.ext4 -q -m 0 "$2.img"
    mount -o loop "$2.img" "$2"
    ;;
free)
    # Without the group nothing has run.
    if [ -e "$group" ]; then
        for figure in $figures; do sed "s/^/$figure: /" "$group/$figure"; done
        # A group empties some moments after its last process was killed.
        for _ in $(seq 50); do rmdir "$group" 2>/dev/null && break || sleep 0.2; done
    fi
    umount "$2"
    rm -f "$2.img"
    rmdir "$2"
    ;;
*)
    # Where no service manager has done so, the groups below the root have no limit of memory.
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo +memory >/sys/fs/cgroup/cgroup.subtree_control || true; fi
    mkdir -p "$group"
    for one in $limits; do echo "${one#*=}" >"$group/${one%%=*}"; done
    echo $$ >"$group/cgroup.procs"
    exec "${LIMITED_PROGRAM:-target/release/tidemark}" "$@"
    ;;
esac
