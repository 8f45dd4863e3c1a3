# The simulator in a container: docker build -f docker/simulate.Dockerfile -t mqueue-simulate .
# Context: the repository's root.
FROM rust:1-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /mqueue
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
COPY tests tests
COPY examples examples
RUN cargo build --release --locked --bin mqueue

FROM alpine:3
RUN adduser -D -H mqueue
COPY --from=build /mqueue/target/release/mqueue /usr/local/bin/mqueue
USER mqueue
ENV WORKERS_COUNT=50 STREAMS_COUNT=100 STREAM_INTERVAL=1000 CHUNK_SIZE=1024 BUFFER_SIZE=500
# Ctrl-C: the streams end, and the statistics are printed
STOPSIGNAL SIGINT
ENTRYPOINT ["mqueue", "simulate"]
