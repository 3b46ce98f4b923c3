#!/usr/bin/env bash
# Installs the Debian packages that a whole cluster needs, or says what is missing and why it stays so.
#
# usage: debian.sh           exit code 3: something is missing and cannot be installed here
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"
PATH="$PATH:/usr/sbin:/sbin"

declare -A package=(
    [containerd]=containerd [ctr]=containerd [runc]=runc [nft]=nftables [conntrack]=conntrack [ip]=iproute2
    [unshare]=util-linux [nsenter]=util-linux
)

missing() {
    for program in "${!package[@]}"; do
        command -v "$program" >/dev/null || echo "${package[$program]}"
    done
    [ -x /usr/lib/cni/bridge ] || echo containernetworking-plugins
}

wanted="$(missing | sort -u | xargs)"
[ -n "$wanted" ] || exit 0
if ! may_install; then
    echo "cluster: missing: $wanted; only root on Debian or Ubuntu can install them here" >&2
    exit 3
fi
echo "cluster: installing Debian's packages $wanted" >&2
# shellcheck disable=SC2086
install_packages $wanted
wanted="$(missing | sort -u | xargs)"
[ -z "$wanted" ] || { echo "cluster: still missing after the installation: $wanted" >&2; exit 3; }
