#!/usr/bin/env bash
# Builds the `tool` programs of tests/tools/FAMILY/go.mod into the cache, once a lock file, and prints their folder.
# Two runs at once wait for each other. Progress goes to standard error.
#
# usage: go.sh FAMILY        (minio, etcd, kubernetes, helm, coredns, pause)
set -euo pipefail

family="${1:?usage: go.sh FAMILY}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$family"
lock="$(find "$here" -maxdepth 1 \( -name 'go.*' -o -name '*.go' \) | sort | xargs cat | sha256sum | cut -c1-16)"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tidemark"
folder="$cache/$family-$lock"
flags=(-s -w)
if [ "$family" = kubernetes ]; then
    # Without these the API server reports no version, and clients refuse it.
    version="$(sed -n 's|.*k8s.io/kubernetes \(v[0-9.]*\).*|\1|p' "$here/go.mod" | head -n 1)"
    IFS=. read -r major minor _ <<<"${version#v}"
    at=k8s.io/component-base/version
    flags+=(-X "$at.gitVersion=$version" -X "$at.gitMajor=$major" -X "$at.gitMinor=$minor" -X "$at.gitTreeState=clean")
fi

# The import paths of the tool directives, in a block or alone.
tools() { awk '/^tool \(/ { inside = 1; next } inside && /^\)/ { inside = 0 } inside { print $1 } /^tool [^(]/ { print $2 }' "$here/go.mod"; }

# Go calls a program as the last part of its import path that is no major version.
built_as() { sed 's|/v[0-9]*$||; s|.*/||' <<<"$1"; }
name_of() { if [ "$1" = go.etcd.io/etcd/server/v3 ]; then echo etcd; else built_as "$1"; fi; }

missing() { for tool in $(tools); do [ -x "$folder/$(name_of "$tool")" ] || echo "$tool"; done; }

if [ -n "$(missing)" ]; then
    if ! command -v go >/dev/null; then
        echo "$family: go is not installed, so it cannot be built; install Go 1.26 or newer" >&2
        exit 1
    fi
    mkdir -p "$folder"
    exec 9>"$cache/$family-$lock.lock"
    flock 9
    # Somebody else may have built them meanwhile.
    mapfile -t building < <(missing)
    if [ ${#building[@]} -gt 0 ]; then
        echo "$family: building ${building[*]} from Go modules, up to some minutes on two cores" >&2
        # All at once: a link uses one core, and what the programs share is looked at once. In another folder, and moved: an
        # interrupted build leaves nothing that looks finished.
        new="$(mktemp -d "$folder/new.XXXXXX")"
        trap 'rm -rf "$new"' EXIT
        build() {
            (cd "$here" && CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly \
                timeout --kill-after=10 1500 go build -trimpath -ldflags "${flags[*]}" -o "$new/" "${building[@]}") >&2
        }
        # What a registry refuses once it may give the next time.
        build || { sleep 5; build; } || { sleep 30; build; }
        for tool in "${building[@]}"; do mv "$new/$(built_as "$tool")" "$folder/$(name_of "$tool")"; done
    fi
fi
echo "$folder"
