# app behind the supervisor, in an image with nothing else in it. The supervisor is PID 1: the holder (see docs/architecture.md).
#
#   docker build -t app . && docker run -p 8080:8080 app
#   docker stop -t 45 ID        longer than graceful_timeout
#   docker kill -s HUP ID       reload; USR2: self-upgrade, after a new binary was put in place
#   docker exec ID supervisor ctl status
#
# etc/docker/Dockerfile.scratch makes the same image from binaries that are there already.

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/supervisor ./cmd/app

FROM scratch
COPY --from=build /out/supervisor /out/app /usr/local/bin/
COPY etc/docker/supervisor.toml /etc/app/supervisor.toml
# Any user will do; this one is nobody's. The root may be read-only (docker run --read-only): nothing is written to it.
USER 65534:65534
# The one place that any user may write to in any container. docker exec has the variable, too, so supervisor ctl needs no flag.
ENV SUPERVISOR_CONTROL=/dev/shm/supervisor.sock
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/usr/local/bin/supervisor", "healthcheck", "-c", "/etc/app/supervisor.toml"]
ENTRYPOINT ["/usr/local/bin/supervisor"]
CMD ["-c", "/etc/app/supervisor.toml"]
