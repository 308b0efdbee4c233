# The IPEX base: PyTorch, Intel's archived extension for it (IPEX) and the oneCCL bindings, in matching versions, in
# /opt/venv.
# `./build.sh` builds it when it is missing. docs/containers.md explains when to use it.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS packages

# pip's settings while the image is built. They do not stay in its environment.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
# The last version for which all three were published.
ARG TORCH_VERSION=2.7.0
ARG IPEX_VERSION=2.7.0
ARG ONECCL_VERSION=2.7.0
# cpu, or any: if no build for CPUs is available, also a build for GPUs, which is gigabytes larger.
ARG TORCH_BUILD=cpu
# auto: oneCCL if ONECCL_INDEX_URL is given and has it; required; none. base_image.txt and the label record the result.
ARG ONECCL=auto
ARG ONECCL_INDEX_URL

# Look up PyTorch, IPEX and the bindings first: a build that cannot succeed should fail at once.
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1
COPY docker/install_torch.sh docker/install_oneccl.sh docker/check_packages.sh docker/shrink.sh \
    docker/requirements-ipex.txt /tmp/docker/
RUN python3 -m venv /opt/venv \
    && /tmp/docker/check_packages.sh --available /opt/venv/bin/python "intel-extension-for-pytorch==$IPEX_VERSION" \
    && /tmp/docker/install_oneccl.sh --check /opt/venv/bin/python "$ONECCL_VERSION" "$ONECCL" "$ONECCL_INDEX_URL" \
    && /tmp/docker/install_torch.sh --check /opt/venv/bin/python "$TORCH_VERSION"

# The locked packages, including Intel OpenMP, are installed before PyTorch, so that pip adds no other versions of its
# dependencies. IPEX imports PyTorch's compiler, which needs networkx.
RUN python3 -m pip install --quiet --no-deps --require-hashes -r /tmp/docker/requirements-ipex.txt \
    && /tmp/docker/install_torch.sh /opt/venv/bin/python "$TORCH_VERSION" \
    && python3 -m pip install --quiet --no-deps "intel-extension-for-pytorch==$IPEX_VERSION" \
    && python3 -c 'import torch, intel_extension_for_pytorch' \
    && oneccl="$(/tmp/docker/install_oneccl.sh /opt/venv/bin/python "$ONECCL_VERSION" "$ONECCL" "$ONECCL_INDEX_URL")" \
    && /tmp/docker/check_packages.sh /opt/venv/bin/python \
    && echo "torch $TORCH_VERSION, IPEX $IPEX_VERSION, $oneccl" > /opt/venv/base_image.txt
RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends binutils >/dev/null \
    && /tmp/docker/shrink.sh /opt/venv/bin/python

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE

# Memory allocators, and numactl to bind a process to a node. apt's caches and logs stay out of the layer.
RUN apt-get -qq update \
    && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
        libtcmalloc-minimal4 libjemalloc2 numactl >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
        /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

LABEL org.opencontainers.image.title="PyTorch with IPEX" \
      org.opencontainers.image.description="Python, PyTorch and Intel's archived extension for it, in /opt/venv" \
      org.opencontainers.image.base.name="$PYTHON_IMAGE"
