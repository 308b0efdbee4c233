# The training image: the package in the Python environment of a base that has PyTorch. build.sh builds it and run.sh
# runs it.
ARG BASE_IMAGE=model-zoo:pytorch-ipex-spr

# What the package needs and the base lacks, before its code, so that a change of code builds fast. The bases that
# build.sh makes lack nothing: their packages are locked. The constraint keeps the torch of any other base.
FROM ${BASE_IMAGE} AS dependencies

# pip's settings while the image is built; none of them stays in its environment. A stage has only those it names.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG PIP_NO_CACHE_DIR=1

USER root
WORKDIR /workspace/bert-large
COPY pyproject.toml ./
COPY licenses licenses
RUN python3 -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > /tmp/constraints.txt \
    && mkdir models \
    && python3 -m pip install --constraint /tmp/constraints.txt '.[mlperf]' \
    && rm -rf models build /tmp/constraints.txt

# The native engine's kernels for all CPUs, built with the base's torch. The compiler stays in this stage.
FROM dependencies AS kernels
RUN command -v g++ \
    || { apt-get update && apt-get install --yes --no-install-recommends g++; } \
    || { echo "error: g++ is missing from the base image and apt-get did not install it: use a base with g++" >&2; exit 1; }
COPY models models
RUN PYTHONPATH=models BERT_LARGE_KERNELS_DIR=/kernels python3 -m bert_large kernels --all \
    && rm /kernels/build.lock

FROM dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG PIP_NO_CACHE_DIR=1
# 1: also what fine-tuning needs. To the bases that build.sh makes the locked packages are all of it; the second command
# adds what any other base lacks besides.
ARG FINETUNE=0
COPY docker/requirements-finetune.txt /tmp/
RUN case "$FINETUNE" in \
        0) ;; \
        1) python3 -m pip install --no-deps --require-hashes -r /tmp/requirements-finetune.txt \
            && mkdir models && python3 -m pip install '.[finetune]' && rm -rf models build ;; \
        *) echo "error: FINETUNE=$FINETUNE is unknown: choose 0 or 1" >&2 && exit 1 ;; \
    esac \
    && rm /tmp/requirements-finetune.txt
COPY models models
RUN python3 -m pip install --no-deps --force-reinstall . \
    && rm -rf models build pyproject.toml
COPY --from=kernels /kernels kernels
COPY quickstart quickstart
COPY docker/healthcheck.sh ./

# Any user may run it: a home that everybody can write to, and a name for users that /etc/passwd does not know.
ENV HOME=/tmp LOGNAME=bert BERT_LARGE_KERNELS_DIR=/workspace/bert-large/kernels
USER 1000:1000
HEALTHCHECK --interval=60s --timeout=10s CMD ["/workspace/bert-large/healthcheck.sh"]
ENTRYPOINT []
CMD ["bert-large", "--help"]

LABEL org.opencontainers.image.title="BERT-large training" \
      org.opencontainers.image.description="BERT pretraining on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
