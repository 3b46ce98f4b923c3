#!/usr/bin/env bash
# Builds the product's programs without optimisation, puts them into a folder of their own, and prints that folder. They are
# copies: a build of the other variant replaces those in target/debug, while tests may run them.
#
# usage: binaries.sh product|demo     product: what the product's image holds
#                                     demo: with the cargo feature `demo`, as tests and the image of the demo's writer need it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tests/tools/steps.sh

variant="${1:?usage: binaries.sh product|demo}"
case "$variant" in
# The crate of the tests turns the feature on by default. It stays selected, so that every dependency has the features that it
# has in the build of the tests: only tidemark-indexer is compiled and linked once more.
product) features=(--no-default-features) ;;
demo) features=() ;;
*) echo "binaries: the variant is product or demo, not \"$variant\"" >&2; exit 1 ;;
esac
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target/programs/$variant"
folder="$(cd "$target/programs/$variant" && pwd)"

# From the build to the copy nobody else builds the other variant.
exec 9>"$folder/../lock"
flock 9
cargo build --locked "${product[@]}" "${features[@]}" --bin tidemark --bin tidemark-operator --quiet >&2
for program in tidemark tidemark-operator; do
    if ! cmp -s "$target/debug/$program" "$folder/$program"; then
        # Moved: a program that runs cannot be written.
        cp "$target/debug/$program" "$folder/$program.new"
        mv -f "$folder/$program.new" "$folder/$program"
    fi
done
echo "$folder"
