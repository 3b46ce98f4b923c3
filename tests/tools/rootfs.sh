#!/usr/bin/env bash
# Assembles the root of the product's image: both programs, the loader and libraries that they name, certificates, and
# nothing else: no shell, no package manager. The Dockerfile and image.sh both call it, so that they hold the same files.
#
# usage: rootfs.sh FOLDER BINARIES      makes FOLDER from the programs in BINARIES
set -euo pipefail

root="${1:?usage: rootfs.sh FOLDER BINARIES}" binaries="${2:?usage: rootfs.sh FOLDER BINARIES}"
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

# Ours, and those of what comes from the system.
cp "$source/LICENSE" "$root/usr/share/doc/tidemark/LICENSE"
for package in libc6 libgcc-s1 ca-certificates; do
    if [ -e "/usr/share/doc/$package/copyright" ]; then
        install -D -m 644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
    fi
done
# Every crate inside, with its version and licence.
(cd "$source" && cargo tree --locked -p tidemark-indexer -p tidemark-operator -e normal --prefix none --format '{p}|{l}') |
    sed 's/ (\/[^)]*)//; s/ (proc-macro)//; s/ (\*)$//' | sort -u | awk -F'|' 'NF == 2 { print $1 ": " $2 }' \
    >"$root/usr/share/doc/tidemark/components.txt"

find "$root" -type d -exec chmod 755 {} +
find "$root/etc" "$root/usr/share" -type f -exec chmod 644 {} +
chmod 1777 "$root/tmp" "$root/var/cache/tidemark"
