#!/usr/bin/env bash
# Writes the product's image as an OCI archive and prints its path. It needs no Docker and no registry.
#
# usage: image.sh [release|dev] [demo]     release: target/image/tidemark.tar; dev: target/image/tidemark-dev.tar, of the debug build
#                                          demo: the image of the demo's writer, target/image/tidemark-demo[-dev].tar, with the cargo
#                                          feature `demo`, which the product's image leaves out
# environment: BINARIES     a folder with programs that are built already
#              IMAGE_TOOLS  a folder with the programs of tests/image, when they are built already
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

profile="${1:-${IMAGE_PROFILE:-release}}"
target="${CARGO_TARGET_DIR:-$(pwd)/target}"
case "${2:-}" in
"") name=tidemark FEATURES="" ;;
demo) name=tidemark-demo FEATURES=tidemark-indexer/demo ;;
*) echo "image: the variant is demo or none, not \"$2\"" >&2; exit 1 ;;
esac
export FEATURES
case "$profile" in
release) output="target/image/$name.tar" ;;
dev) output="target/image/$name-dev.tar" ;;
*) echo "image: the profile is release or dev, not \"$profile\"" >&2; exit 1 ;;
esac

if [ -n "${BINARIES:-}" ]; then
    :
elif [ "$profile" = release ]; then
    cargo build --locked --release -p tidemark-indexer -p tidemark-operator --bins --features "$FEATURES" >&2
    BINARIES="$target/release"
else
    BINARIES="$(tests/tools/binaries.sh "${2:-product}")"
fi
if [ -z "${IMAGE_TOOLS:-}" ]; then
    cargo build --locked -p tidemark-image --bins >&2
    IMAGE_TOOLS="$target/debug"
fi

mkdir -p target/image
# Tests that need the same image ask for it at the same time.
exec 9>"$output.lock"
flock 9
root="$(mktemp -d target/image/rootfs.XXXXXX)"
trap 'rm -rf "$root"' EXIT
tests/tools/rootfs.sh "$root" "$BINARIES" "$IMAGE_TOOLS"

# The same as in the Dockerfile; tests/tests/servers/image.rs compares them.
version="$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)"
"$IMAGE_TOOLS/oci-image" --root "$root" --name "tidemark.dev/$name:dev" --user 65532:65532 --entry-point /usr/bin/tidemark \
    --env PATH=/usr/bin \
    --label org.opencontainers.image.title=Tidemark \
    --label "org.opencontainers.image.description=Search for write-ahead logs in object storage, and the operator that runs it" \
    --label org.opencontainers.image.source=https://github.com/tidemark-dev/tidemark \
    --label org.opencontainers.image.licenses=Apache-2.0 \
    --label "org.opencontainers.image.version=$version" \
    "$output"
echo "image: $output, $(($(stat -c %s "$output") / 1000000)) MB, tidemark.dev/$name:dev" >&2
echo "$(pwd)/$output"
