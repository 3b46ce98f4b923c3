# Both programs on an empty root. `make image` writes the same image without Docker.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# `--build-arg FEATURES=tidemark-indexer/demo` makes the image of the demo's writer.
ARG FEATURES=
RUN cargo build --release --locked -p tidemark-indexer -p tidemark-operator --bins --features "$FEATURES" \
 && cargo build --locked -p tidemark-image --bin sbom \
 && tests/tools/rootfs.sh /rootfs target/release target/debug

FROM scratch
COPY --from=build /rootfs/ /
ENV PATH=/usr/bin
WORKDIR /
USER 65532:65532
LABEL org.opencontainers.image.title="Tidemark"
LABEL org.opencontainers.image.description="Search for write-ahead logs in object storage, and the operator that runs it"
LABEL org.opencontainers.image.source="https://github.com/tidemark-dev/tidemark"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.version="0.1.0"
ENTRYPOINT ["/usr/bin/tidemark"]
