# The stock base: PyTorch's own build for CPUs, in /opt/venv. `BASE=stock ./build.sh` builds it when it is missing.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE

# pip's settings while the image is built; none of them stays in its environment.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG TORCH_VERSION=2.13.0
ARG TORCH_BUILD=cpu

# Memory allocators, and numactl to bind a process to a node.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libtcmalloc-minimal4 libjemalloc2 numactl \
    && rm -rf /var/lib/apt/lists/*

# The locked packages come first, so that PyTorch finds what it needs and brings no other versions.
ENV PATH=/opt/venv/bin:$PATH
COPY docker/install_torch.sh docker/requirements-stock.txt /tmp/docker/
RUN python3 -m venv /opt/venv \
    && PIP_NO_CACHE_DIR=1 python3 -m pip install --no-deps --require-hashes -r /tmp/docker/requirements-stock.txt \
    && PIP_NO_CACHE_DIR=1 /tmp/docker/install_torch.sh /opt/venv/bin/python "$TORCH_VERSION" \
    && python3 -m pip check \
    && echo "torch $TORCH_VERSION" > /opt/venv/base_image.txt \
    && rm -r /tmp/docker

LABEL org.opencontainers.image.title="PyTorch for CPUs" \
      org.opencontainers.image.description="Python and PyTorch's own build for CPUs, in /opt/venv" \
      org.opencontainers.image.base.name="$PYTHON_IMAGE"
