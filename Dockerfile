# The image of idtoken-operator: one static program on nothing. Builds with docker (BuildKit) or buildah, on amd64 or arm64:
#   docker build -t idtoken-operator:0.1.0 .
# Equal sources on an equal build image give an equal layer.

# Needs Rust, a C compiler (aws-lc), static glibc 2.34 or newer (from there on it has DNS built in) and ca-certificates.
# Without a network it has to have cargo-auditable too; then run `cargo vendor` first and add the lines that it prints to
# .cargo/config.toml.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm

FROM ${BUILD_IMAGE} AS build
# Writes into the program which crates it is made of, for `cargo audit bin` and for scanners of images. Unoptimised: it is
# built in a fraction of the time, and is only asked once.
ARG CARGO_AUDITABLE_VERSION=0.7.7
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    command -v cargo-auditable || cargo install cargo-auditable --version "$CARGO_AUDITABLE_VERSION" --locked --debug

WORKDIR /src
COPY . .
# The files are touched since cargo goes by their times, and those of another checkout may be older than what is in the
# cache. Of the workspace's other members, only the manifests are here. Only with --target do build scripts and macros, which
# can't be static, get none of RUSTFLAGS.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/target,sharing=locked \
    set -eu; \
    find src -type f -exec touch {} +; \
    mkdir -p xtask/src tests/simulation/src; : > xtask/src/lib.rs; : > tests/simulation/src/lib.rs; \
    host="$(rustc -vV | sed -n 's/^host: //p')"; \
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
    cargo auditable build --locked --release --target "$host" --target-dir /target \
        --package idtoken-operator --bin idtoken-operator; \
    mkdir -p /image/usr/local/bin /image/etc/ssl/certs; \
    cp "/target/$host/release/idtoken-operator" /image/usr/local/bin/; \
    cat /usr/share/ca-certificates/mozilla/*.crt > /image/etc/ssl/certs/ca-certificates.crt; \
    echo 'nonroot:x:65532:65532:nonroot:/nonexistent:/sbin/nologin' > /image/etc/passwd; \
    echo 'nonroot:x:65532:' > /image/etc/group; \
    echo 'hosts: files dns' > /image/etc/nsswitch.conf; \
    find /image -exec touch --date=@0 {} +

FROM scratch
LABEL org.opencontainers.image.title="idtoken-operator" \
      org.opencontainers.image.description="Keeps Kubernetes Secrets filled with fresh, verified, audience-scoped Google ID tokens and mounts them into pods" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/ /
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/idtoken-operator"]
