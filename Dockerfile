# The server as a small image, with the load generator (--entrypoint ringhub-loadgen). docs/deploy.md, "In a container", has
# the commands that run it.

ARG BUILD_IMAGE=rust:1-bookworm
# Anything with the build image's C library, or a newer one, and libgcc. It needs no shell and no other tool.
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
# Between builds stays what was downloaded and compiled of the dependencies. The hub itself is always compiled: Cargo
# goes by the files' times, and those of another checkout may be older than what it left in the cache.
# Without line numbers the program has a fifth of the size; the names of functions stay.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=ringhub-target,target=/src/target,sharing=locked \
    touch src/lib.rs src/main.rs loadgen/src/lib.rs loadgen/src/main.rs && \
    CARGO_PROFILE_RELEASE_STRIP=debuginfo cargo build --release --locked -p ringhub -p ringhub-loadgen \
        --bin ringhub --bin ringhub-loadgen && \
    install -D -t /image/usr/local/bin target/release/ringhub target/release/ringhub-loadgen && \
    # The licences: ours, and those of the crates that are linked in. Cargo marks repetitions, procedural macros and
    # our own crates by something in parentheses.
    install -D -m 644 -t /image/usr/share/doc/ringhub LICENSE LICENSE-MIT LICENSE-APACHE && \
    cargo tree --locked -p ringhub -p ringhub-loadgen --edges normal --prefix none --format '{p}' | \
      grep -v -e '(' -e '^$' | while read -r name version; do \
        crate="$name-${version#v}"; \
        find "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$crate" -maxdepth 1 -type f \
            \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'copyright*' -o -iname 'notice*' \) \
            -exec install -D -m 644 -t "/image/usr/share/doc/ringhub/crates/$crate" {} + || exit; \
    done

FROM ${RUNTIME_IMAGE}
ARG RUNTIME_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ringhub" \
      org.opencontainers.image.description="A WebSocket broadcast hub for Linux on io_uring" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${RUNTIME_IMAGE}"
COPY --from=build /image /
USER 65532:65532
ENV RINGHUB_LISTEN=0.0.0.0:6455
EXPOSE 6455
# It runs as PID 1, hears this, and leaves within its drain time-out.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/usr/local/bin/ringhub", "health"]
ENTRYPOINT ["/usr/local/bin/ringhub"]
