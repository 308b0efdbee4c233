# The stock base: PyTorch's own build for CPUs, in /opt/venv. `BASE=stock ./build.sh` builds it when it is missing.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

# pip's settings while the image is built; none of them stays in its environment.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST

ENV PATH=/opt/venv/bin:$PATH
COPY docker/install_torch.sh /tmp/install_torch.sh
RUN python3 -m venv /opt/venv \
    && PIP_NO_CACHE_DIR=1 /tmp/install_torch.sh /opt/venv/bin/python \
    && rm /tmp/install_torch.sh

LABEL org.opencontainers.image.title="PyTorch for CPUs" \
      org.opencontainers.image.description="Python and PyTorch's own build for CPUs, in /opt/venv"
