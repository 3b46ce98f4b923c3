# Every target runs from a fresh clone; what it needs beyond Rust, Go and a shell it builds or installs itself.
.POSIX:
.PHONY: help test lint deny bench fuzz demo image demo-image cluster

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

test: ## lint, build, start the real servers and run every test (about an hour when cold)
	@tests/tools/test.sh

lint: ## format and lint, changing nothing
	cargo fmt --all --check
	cargo clippy --workspace --exclude tidemark-sim --all-targets -- -D warnings
	cargo clippy -p tidemark-sim --features tantivy --all-targets -- -D warnings

deny: ## check the licences and sources of every dependency (builds cargo-deny once)
	tests/tools/deny.sh --build

bench: ## measure everything in BENCHMARKS.md, on the terminal (about half an hour)
	cargo build --release -p tidemark-indexer -p tidemark-operator
	TIDEMARK_PROGRAM="$${CARGO_TARGET_DIR:-$$(pwd)/target}/release/tidemark" cargo bench -p tidemark-tests --benches

fuzz: ## feed damaged input to every parser, FUZZ_SECONDS (60) each
	FUZZ_SECONDS=$${FUZZ_SECONDS:-60} cargo test -p tidemark-tests --test parsers -- --nocapture

demo: ## search this repository's own history: builds tidemark, prints the page's address and a curl that answers
	@tests/tools/demo.sh

image: ## write the container image to target/image/tidemark.tar (release build)
	@tests/tools/image.sh release

demo-image: ## write the image of the demo's writer to target/image/tidemark-demo.tar (release build)
	@tests/tools/image.sh release demo

cluster: ## start a Kubernetes with the chart and the demo in it, until Ctrl-C (needs root)
	@tests/tools/cluster.sh
