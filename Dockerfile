# The gateway as a container image. Nothing in it is secret: keys come from mounted files
# (`*_file` settings) or the environment when it runs. For a release, name the base image by digest
# (BASE=python@sha256:…).
ARG BASE=python:3.13-slim

# Everything that is needed to build stays in this stage.
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

# Dependencies first, by hash and as wheels only: this layer is kept until a lock file changes.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock \
 && python -m venv /opt/payout-gateway \
 && /opt/payout-gateway/bin/pip install --require-hashes --only-binary :all: -r requirements.lock

# Then the project, without an index: what the locks do not name cannot come in.
COPY pyproject.toml LICENSE ./
# The guide: gateway/guide is a link to it.
COPY docs docs
COPY gateway gateway
COPY adapters adapters
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/payout-gateway/bin/pip install --no-index --no-deps /wheels/*.whl \
 && /opt/payout-gateway/bin/pip uninstall --yes pip \
 && /opt/payout-gateway/bin/payout-gateway --help > /dev/null

FROM ${BASE}
RUN groupadd --system --gid 10001 gateway \
 && useradd --system --uid 10001 --gid gateway --no-create-home \
      --home-dir /var/lib/payout-gateway --shell /usr/sbin/nologin gateway \
 && install -d -o gateway -g gateway -m 0750 /var/lib/payout-gateway \
 && install -d -m 0755 /etc/payout-gateway
COPY --from=build /opt/payout-gateway /opt/payout-gateway

# The configuration is mounted read-only; the database lives in the volume.
ENV PATH=/opt/payout-gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PAYOUT_GATEWAY_LISTEN__HOST=0.0.0.0 \
    PAYOUT_GATEWAY_LISTEN__PORT=8080 \
    PAYOUT_GATEWAY_DATABASE=/var/lib/payout-gateway/payout-gateway.db
USER 10001:10001
WORKDIR /var/lib/payout-gateway
VOLUME ["/var/lib/payout-gateway"]
EXPOSE 8080
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PAYOUT_GATEWAY_LISTEN__PORT'] + '/healthz', timeout=3)"]

# The schema is brought up to date by: docker run … db upgrade --config /etc/payout-gateway/payout-gateway.toml
ENTRYPOINT ["payout-gateway"]
CMD ["serve", "--config", "/etc/payout-gateway/payout-gateway.toml"]
