# Build: docker build -t pelton .
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake libssl-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The shop that the tiny model knows is written here, so that the image can score its SQL.
RUN cargo build --release --locked --features kafka-tls --bin pelton \
 && cargo run --release --locked --features kafka-tls --example shop -- /shop

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 libstdc++6 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/pelton /usr/local/bin/pelton
COPY --from=build /src/models /usr/share/pelton/models
COPY --from=build /shop /usr/share/pelton/shop
# The sidecar's queue on the disk and the adapters that it pulls; a volume made here has this owner.
RUN mkdir -p /var/lib/pelton && chown 65534:65534 /var/lib/pelton
USER 65534:65534
WORKDIR /tmp
ENTRYPOINT ["pelton"]
CMD ["--help"]
