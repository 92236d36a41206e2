# The image of miner, agent and worker. `docker compose build` makes it; no BuildKit is needed.
#
# For the speed of pre-commit 1 on the host that it is built on:
#   docker compose build --build-arg RUSTFLAGS="-C target-cpu=native"

FROM rust:1.95.0-bookworm AS chef
RUN apt-get update \
    && apt-get install --yes --no-install-recommends protobuf-compiler libprotobuf-dev \
    && rm -rf /var/lib/apt/lists/* \
    && cargo install --locked --version 0.1.76 cargo-chef
ENV PROTOC=/usr/bin/protoc
WORKDIR /src

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

# The dependencies: a layer that stays until Cargo.lock or a manifest changes.
FROM chef AS build
ARG RUSTFLAGS=
COPY --from=plan /src/recipe.json recipe.json
RUN cargo chef cook --release --workspace --recipe-path recipe.json
COPY . .
RUN cargo build --release --workspace --bins --locked \
    && mkdir /out \
    && for part in miner agent worker; do strip -o /out/sealfarm-$part target/release/sealfarm-$part; done \
    && cp deploy/compose/sealfarm-container /out/

FROM debian:bookworm-20260824-slim
RUN groupadd --gid 10001 sealfarm \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/sealfarm --shell /usr/sbin/nologin sealfarm \
    && for name in miner agent store hub-conf hub-nats site-conf site-nats etcd bundle join; do \
           install --directory --owner sealfarm --group sealfarm --mode 0750 /var/lib/sealfarm/$name; \
       done \
    && for name in parameters parents; do \
           install --directory --owner sealfarm --group sealfarm --mode 0750 /var/cache/sealfarm/$name; \
       done
ENV LOTUS_STORAGE_PATH=/var/lib/sealfarm/miner/repo \
    LOTUS_AGENT_PATH=/var/lib/sealfarm/agent/repo \
    WORKER_PATH=/var/lib/sealfarm/store \
    FIL_PROOFS_PARAMETER_CACHE=/var/cache/sealfarm/parameters \
    FIL_PROOFS_PARENT_CACHE=/var/cache/sealfarm/parents
COPY --from=build /out/ /usr/local/bin/
USER 10001:10001
