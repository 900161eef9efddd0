# syntax=docker/dockerfile:1

FROM rust:1-slim-bookworm AS build
# OpenSSL and librdkafka are compiled from source, into the binary: perl, make and a C++ compiler.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential make perl \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# What the program reports as its revision; the repository itself does not come into the image.
ARG REVISION=unknown
ENV DUNMORE_BUILD_REVISION=$REVISION
# The cache mounts outlive the layer, so a change of the sources does not compile all dependencies again.
# They are gone after this step, which is why the binary is copied out of the target folder here.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin dunmore \
    && install -D target/release/dunmore /out/dunmore \
    # The symbols for profiles and backtraces are 80 percent of the file; they stay in the build stage.
    && objcopy --only-keep-debug /out/dunmore /out/dunmore.debug \
    && strip --strip-debug /out/dunmore \
    && objcopy --add-gnu-debuglink=/out/dunmore.debug /out/dunmore

FROM debian:bookworm-slim
# The user has a fixed id, so that the owner of a mounted folder can be set from outside.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin dunmore \
    && install -d -o dunmore -g dunmore /var/lib/dunmore
COPY --from=build /out/dunmore /usr/local/bin/dunmore
COPY --chmod=755 docker/healthcheck /usr/local/bin/dunmore-healthcheck

USER dunmore
WORKDIR /var/lib/dunmore
# The defaults listen on loopback, which in a container nobody could reach.
ENV DUNMORE_DATA_DIR=/var/lib/dunmore \
    DUNMORE_API__LISTEN=0.0.0.0:8080 \
    DUNMORE_ADMIN__LISTEN=0.0.0.0:9464
VOLUME /var/lib/dunmore
EXPOSE 8080 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["dunmore-healthcheck", "/healthz"]
ENTRYPOINT ["dunmore"]
CMD ["serve"]
