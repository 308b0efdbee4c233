# The IPEX base: PyTorch, Intel's archived extension for it, and the oneCCL bindings of one matching set, in /opt/venv.
# `./build.sh` builds it when it is missing. docs/IPEX.md says when to use it, and what its being archived means.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE

# pip's settings while the image is built; none of them stays in its environment.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
# The last versions for which all three were published.
ARG TORCH_VERSION=2.7.0
ARG IPEX_VERSION=2.7.0
ARG ONECCL_VERSION=2.7.0
# cpu, or any: also a build for GPUs, which is gigabytes larger, where no build for CPUs can be had.
ARG TORCH_BUILD=cpu
# auto: oneCCL if ONECCL_INDEX_URL is given and has it; required; none. base_image.txt and the label say which it was.
ARG ONECCL=auto
ARG ONECCL_INDEX_URL

# Memory allocators, and numactl to bind a process to a node.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libtcmalloc-minimal4 libjemalloc2 numactl \
    && rm -rf /var/lib/apt/lists/*

# The locked packages, Intel OpenMP among them, come first, so that PyTorch finds what it needs and brings no others.
ENV PATH=/opt/venv/bin:$PATH
COPY docker/install_torch.sh docker/requirements-ipex.txt /tmp/docker/
RUN python3 -m venv /opt/venv \
    && PIP_NO_CACHE_DIR=1 python3 -m pip install --no-deps --require-hashes -r /tmp/docker/requirements-ipex.txt \
    && PIP_NO_CACHE_DIR=1 /tmp/docker/install_torch.sh /opt/venv/bin/python "$TORCH_VERSION" \
    && rm -r /tmp/docker
COPY docker/install_oneccl.sh /tmp/
RUN export PIP_NO_CACHE_DIR=1 \
    && python3 -m pip install --no-deps "intel-extension-for-pytorch==$IPEX_VERSION" \
    && python3 -c 'import torch, intel_extension_for_pytorch' \
    && oneccl="$(/tmp/install_oneccl.sh /opt/venv/bin/python "$ONECCL_VERSION" "$ONECCL" "$ONECCL_INDEX_URL")" \
    && python3 -m pip check \
    && echo "torch $TORCH_VERSION, IPEX $IPEX_VERSION, $oneccl" > /opt/venv/base_image.txt \
    && rm -rf /tmp/*

LABEL org.opencontainers.image.title="PyTorch with IPEX" \
      org.opencontainers.image.description="Python, PyTorch and Intel's archived extension for it, in /opt/venv" \
      org.opencontainers.image.base.name="$PYTHON_IMAGE"
