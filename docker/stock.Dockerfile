# The stock base: PyTorch's own build for CPUs, in /opt/venv. `BASE=stock ./build.sh` builds it when it is missing.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE} AS packages

# pip's settings while the image is built. They do not stay in its environment.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG TORCH_VERSION=2.13.0
ARG TORCH_BUILD=cpu

# Look up PyTorch first: a build that cannot succeed should fail at once.
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1
COPY docker/install_torch.sh docker/check_packages.sh docker/shrink.sh docker/requirements-stock.txt /tmp/docker/
RUN python3 -m venv /opt/venv \
    && /tmp/docker/install_torch.sh --check /opt/venv/bin/python "$TORCH_VERSION"

# The locked packages are installed before PyTorch, so that pip adds no other versions of its dependencies. networkx, of
# which PyTorch needs only the compiler's partitioner, is not among them.
RUN python3 -m pip install --quiet --no-deps --require-hashes -r /tmp/docker/requirements-stock.txt \
    && /tmp/docker/install_torch.sh /opt/venv/bin/python "$TORCH_VERSION" \
    && python3 -m pip uninstall --quiet --yes networkx \
    && /tmp/docker/check_packages.sh /opt/venv/bin/python \
    && echo "torch $TORCH_VERSION" > /opt/venv/base_image.txt
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

LABEL org.opencontainers.image.title="PyTorch for CPUs" \
      org.opencontainers.image.description="Python and PyTorch's own build for CPUs, in /opt/venv" \
      org.opencontainers.image.base.name="$PYTHON_IMAGE"
