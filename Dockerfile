# The server as a small image. io_uring is forbidden by Docker's default seccomp profile; run it with one that allows it:
#   docker build -t ringhub .
#   docker run --rm -p 6455:6455 --security-opt seccomp=unconfined ringhub

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin ringhub

FROM debian:bookworm-slim
COPY --from=build /src/target/release/ringhub /usr/local/bin/ringhub
COPY --from=build /src/LICENSE /src/LICENSE-MIT /src/LICENSE-APACHE /usr/share/doc/ringhub/
USER 65532:65532
ENV RINGHUB_LISTEN=0.0.0.0:6455
EXPOSE 6455
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/ringhub"]
