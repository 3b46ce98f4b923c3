#!/usr/bin/env bash
# Fetches the packages of tests/tools/FAMILY/pom.xml from Maven Central into the cache, compares them with the digests of
# tests/tools/FAMILY/SHA256SUMS, and prints their folder. Two runs at once wait for each other. Progress goes to standard error.
#
# usage: maven.sh FAMILY [--write-digests]        (spark: 900 MiB, opensearch: 53 MiB); the option after a change of pom.xml
# exit code 3: there is no Java of version 17 or newer, or no Maven, and none can be installed here; 4: the registry does not answer
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

family="${1:?usage: maven.sh FAMILY [--write-digests]}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$family"
digests="$here/SHA256SUMS"

usable() { command -v java >/dev/null && command -v mvn >/dev/null && java --version | awk 'NR == 1 { split($2, v, "."); exit v[1] < 17 }'; }

if ! usable; then
    if ! may_install; then
        echo "$family: needs Java 17 or newer and Maven; run 'apt-get install default-jdk-headless maven'" >&2
        exit 3
    fi
    echo "$family: installing Debian's packages default-jdk-headless and maven" >&2
    install_packages default-jdk-headless maven || exit 4
    usable || { echo "$family: Java is older than 17" >&2; exit 3; }
fi

cache="$(realpath -m "${XDG_CACHE_HOME:-$HOME/.cache}/tidemark")"
folder="$cache/$family-$(cat "$here/pom.xml" "$digests" | sha256sum | cut -c1-16)"
if [ "${2:-}" = --write-digests ] || [ ! -e "$folder/complete" ]; then
    mkdir -p "$folder"
    exec 9>"$folder.lock"
    flock 9
    if [ "${2:-}" = --write-digests ] || [ ! -e "$folder/complete" ]; then
        echo "$family: fetching it from Maven Central" >&2
        rm -rf "$folder/jars"
        code=0
        timeout --kill-after=10 600 mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$folder/jars" >"$folder/mvn.log" 2>&1 || code=$?
        if [ "$code" -ne 0 ]; then
            cat "$folder/mvn.log" >&2
            if [ "$code" -eq 124 ] || grep -qE 'Connection (timed out|refused|reset)|Unknown host|Read timed out|status code: (403|429|5[0-9][0-9])' "$folder/mvn.log"; then
                echo "$family: the registry does not answer" >&2
                exit 4
            fi
            exit 1
        fi
        if [ "${2:-}" = --write-digests ]; then
            (cd "$folder/jars" && sha256sum -- *.jar) >"$digests"
            echo "$family: wrote $digests" >&2
            exit
        fi
        (cd "$folder/jars" && [ "$(ls | wc -l)" = "$(wc -l <"$digests")" ] && sha256sum --check --strict --quiet "$digests") >&2
        : >"$folder/complete"
    fi
fi
echo "$folder/jars"
