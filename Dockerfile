# Builds the image of idtoken-operator with docker or buildah. Both base images are build arguments, so that it can be
# built from bases of one's own:
#   docker build --build-arg BUILD_IMAGE=… --build-arg RUNTIME_IMAGE=… -t idtoken-operator:0.1.0 .
# Without a network: run `cargo vendor` first, add the lines that it prints to .cargo/config.toml, and pass
# --build-arg CARGO_NET_OFFLINE=true.

# Needs Rust, a C compiler (aws-lc) and a glibc no newer than the runtime image's.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
# Needs glibc, libgcc and a bundle of CA certificates, nothing else.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
ARG CARGO_NET_OFFLINE=false
WORKDIR /src
COPY . .
RUN CARGO_NET_OFFLINE=${CARGO_NET_OFFLINE} CARGO_TARGET_DIR=/target \
    cargo build --locked --release --package idtoken-operator --bin idtoken-operator

FROM ${RUNTIME_IMAGE}
COPY --from=build /target/release/idtoken-operator /usr/local/bin/idtoken-operator
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/idtoken-operator"]
