#!/usr/bin/env bash
# Assembles the root of the product's image: both programs, the loader and libraries that they name, certificates, what
# all that is made of, and nothing else: no shell, no package manager. The Dockerfile and image.sh both call it, so that
# they hold the same files.
#
# usage: rootfs.sh FOLDER BINARIES TOOLS      makes FOLDER from the programs in BINARIES, with those of tests/image in TOOLS
# environment: FEATURES     the cargo features that the programs were built with
set -euo pipefail

usage="usage: rootfs.sh FOLDER BINARIES TOOLS"
root="${1:?$usage}" binaries="${2:?$usage}" tools="$(realpath "${3:?$usage}")"
source="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
certificates=/etc/ssl/certs/ca-certificates.crt

rm -rf "$root"
mkdir -p "$root"/{usr/bin,etc/ssl/certs,var/cache/tidemark,tmp,usr/share/doc/tidemark}

# Copies a file of the system to its own place.
take() { install -D -m "$(stat -Lc %a "$1")" "$1" "$root$1"; }

for program in tidemark tidemark-operator; do
    install -m 755 "$binaries/$program" "$root/usr/bin/$program"
    # Symbols stay in the build's folder.
    if command -v strip >/dev/null; then strip "$root/usr/bin/$program"; fi
    # "name => /path (address)" and, for the loader, "/path (address)".
    for library in $(ldd "$root/usr/bin/$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }'); do
        [ -e "$root$library" ] || take "$library"
    done
done

[ -s "$certificates" ] || { echo "rootfs: \"$certificates\" is missing; install ca-certificates" >&2; exit 1; }
take "$certificates"
cat >"$root/etc/passwd" <<'TEXT'
root:x:0:0:root:/:/sbin/nologin
tidemark:x:65532:65532:tidemark:/:/sbin/nologin
TEXT
cat >"$root/etc/group" <<'TEXT'
root:x:0:
tidemark:x:65532:
TEXT
echo "hosts: files dns" >"$root/etc/nsswitch.conf"

# Our licence, and those of what comes from the system.
cp "$source/LICENSE" "$root/usr/share/doc/tidemark/LICENSE"
parts=()
for package in libc6 libgcc-s1 ca-certificates; do
    if [ -e "/usr/share/doc/$package/copyright" ]; then
        install -D -m 644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
    fi
    if version="$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null)"; then
        distribution="$(. /etc/os-release && echo "$ID")" release="$(. /etc/os-release && echo "${VERSION_ID:-}")"
        parts+=(--system "pkg:deb/$distribution/$package@$version?distro=$distribution-$release")
    fi
done
# Scanners find it by the end of its name.
sbom="$(realpath "$root")/usr/share/doc/tidemark/tidemark.cdx.json"
(cd "$source" && "$tools/sbom" --name tidemark --package tidemark-indexer --package tidemark-operator --features "${FEATURES:-}" "${parts[@]}" "$sbom")

find "$root" -type d -exec chmod 755 {} +
find "$root/etc" "$root/usr/share" -type f -exec chmod 644 {} +
chmod 1777 "$root/tmp" "$root/var/cache/tidemark"
