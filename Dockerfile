# The training image: the package in the Python environment of a base that has PyTorch. build.sh builds it and run.sh
# runs it.
ARG BASE_IMAGE=model-zoo:pytorch-ipex-spr
FROM ${BASE_IMAGE}

# pip's settings while the image is built; none of them stays in its environment.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG PIP_NO_CACHE_DIR=1

USER root
WORKDIR /workspace/bert-large

# What the package needs, before its code, so that a change of code builds in seconds. The constraint keeps the base's
# torch.
COPY pyproject.toml ./
COPY licenses licenses
RUN python3 -c 'import torch; print(f"torch=={torch.__version__}")' > /tmp/constraints.txt \
    && mkdir models \
    && python3 -m pip install --constraint /tmp/constraints.txt . \
    && rm -rf models build /tmp/constraints.txt

COPY models models
RUN python3 -m pip install --no-deps --force-reinstall . \
    && rm -rf models build pyproject.toml

COPY quickstart quickstart

# Any user may run it: a home that everybody can write to, and a name for users that /etc/passwd does not know.
ENV HOME=/tmp LOGNAME=bert
USER 1000:1000
ENTRYPOINT []
CMD ["bert-large", "--help"]

LABEL org.opencontainers.image.title="BERT-large training" \
      org.opencontainers.image.description="BERT pretraining on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
