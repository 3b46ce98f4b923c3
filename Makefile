# Every target runs from a fresh clone; what it needs beyond Rust, Go and a shell it builds or installs itself.
.POSIX:
.PHONY: help check generate unit local servers cluster-test sim test long lint deny bench fuzz demo image demo-image cluster

help: ## list the targets
	@echo 'While you work:      make check CRATE=wal'
	@echo 'Before you push:     make unit local'
	@echo 'What CI runs:        make test'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' Makefile | awk -F @ '{ printf "%-20s %s\n", $$1, $$2 }'

check: ## lint one crate and run its unit tests: CRATE=wal
	@tests/tools/check.sh $(CRATE)

generate: ## write what is made of the table of kinds: definitions, and the chart's copies and access rights
	cargo run --quiet -p tidemark-crds --bin crdgen

unit: ## run the tests of every crate alone: no server, no program
	@tests/tools/suite.sh unit $(ONLY)

local: ## run the tests that need nothing but this repository; ONLY=conformance narrows
	@tests/tools/suite.sh local $(ONLY)

servers: ## run the tests that need MinIO, azurite, an API server, Helm, Chromium or the image (needs Go, builds them once); ONLY=controller narrows
	@tests/tools/suite.sh servers $(ONLY)

cluster-test: ## run the tests on a whole Kubernetes (needs root, Go and containerd); ONLY=first_hour narrows, CLUSTERS (2) at a time
	@CLUSTERS=$(CLUSTERS) tests/tools/cluster-tests.sh $(ONLY)

sim: ## run seeds of the simulation: SEEDS=100 of each scenario, FROM=0
	@tests/tools/sim.sh $${SEEDS:-100} $${FROM:-0}

test: ## everything above, lints and all servers: what CI runs (needs Go; root for the clusters; Chromium)
	@tests/tools/test.sh

long: ## what takes hours: 20 000 seeds of each scenario, 100 000 commits, 10 million entries, 10 000 WALs, Spark on the archive, a simulated year
	@tests/tools/long.sh

lint: ## format and lint, changing nothing
	cargo fmt --all --check
	cargo clippy --workspace --exclude tidemark-sim --all-targets -- -D warnings
	cargo clippy -p tidemark-sim -p tidemark-indexer --no-default-features --features tidemark-sim/tantivy,tidemark-indexer/demo --all-targets -- -D warnings

deny: ## check licences, bans and sources of every dependency with cargo-deny (builds it once)
	tests/tools/deny.sh --build

bench: ## measure everything in BENCHMARKS.md, on the terminal
	cargo build --release -p tidemark-indexer -p tidemark-operator
	TIDEMARK_PROGRAM="$${CARGO_TARGET_DIR:-$$(pwd)/target}/release/tidemark" cargo bench -p tidemark-tests --benches
	cargo bench -p tidemark-archive --bench archive

fuzz: ## feed damaged input to every parser, FUZZ_SECONDS (60) each
	FUZZ_SECONDS=$${FUZZ_SECONDS:-60} cargo test -p tidemark-tests --test local -- parsers:: --nocapture

demo: ## search this repository's own history: builds tidemark, prints the page's address and a curl that answers
	@tests/tools/demo.sh

image: ## write the container image to target/image/tidemark.tar (release build)
	@tests/tools/image.sh release

demo-image: ## write the image of the demo's writer to target/image/tidemark-demo.tar (release build)
	@tests/tools/image.sh release demo

cluster: ## start a Kubernetes with the chart and the demo in it, until Ctrl-C (needs root)
	@tests/tools/cluster.sh
