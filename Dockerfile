# The training image: the package, in the Python environment of a base image with PyTorch. build.sh builds it, run.sh runs
# it.
ARG BASE_IMAGE=model-zoo:pytorch-ipex-spr

# The package's dependencies come before its code, so that a change of code builds fast. The bases of build.sh have them
# already, in locked versions; on any other base pip adds the missing ones. The constraint keeps that base's torch. The
# MLPerf logger is installed without dependencies: pandas and scipy are for its checkers.
FROM ${BASE_IMAGE} AS dependencies

# pip's settings while the image is built. They do not stay in its environment. Each stage must declare them.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG PIP_NO_CACHE_DIR=1

USER root
WORKDIR /workspace/bert-large
COPY pyproject.toml ./
COPY licenses licenses
COPY docker/check_packages.sh /tmp/
RUN python3 -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > /tmp/constraints.txt \
    && mkdir models \
    && python3 -m pip install --quiet --no-deps . \
    && { /tmp/check_packages.sh python3 2>/dev/null \
        || python3 -m pip install --quiet --constraint /tmp/constraints.txt .; } \
    && python3 -m pip install --quiet --no-deps "$(sed -n 's/^mlperf = \["\(.*\)"\]$/\1/p' pyproject.toml)" \
    && rm -rf models build /tmp/constraints.txt /tmp/check_packages.sh

# The native engine's kernels for all CPUs, compiled with the base's torch. The compiler and torch's headers, which
# docker/shrink.sh packed, stay in this stage.
FROM dependencies AS kernels
RUN command -v g++ \
    || { apt-get -qq update \
        && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends g++ >/dev/null; } \
    || { echo "error: g++ is missing from the base image and apt-get did not install it: use a base with g++" >&2; exit 1; }
RUN cd "$(python3 -c 'import importlib.util as util; print(util.find_spec("torch").submodule_search_locations[0])')" \
    && if [ -f include.tar.gz ]; then tar --extract --file include.tar.gz; fi
COPY models models
RUN PYTHONPATH=models BERT_LARGE_KERNELS_DIR=/kernels python3 -m bert_large kernels --all \
    && rm /kernels/build.lock

FROM dependencies
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG PIP_NO_CACHE_DIR=1
# 1: with the packages for fine-tuning. On the bases of build.sh the locked packages suffice; on any other base the second
# command adds the missing ones.
ARG FINETUNE=0
COPY docker/requirements-finetune.txt /tmp/
RUN case "$FINETUNE" in \
        0) ;; \
        1) python3 -m pip install --quiet --no-deps --require-hashes -r /tmp/requirements-finetune.txt \
            && mkdir models && python3 -m pip install --quiet '.[finetune]' && rm -rf models build ;; \
        *) echo "error: FINETUNE=$FINETUNE is unknown: choose 0 or 1" >&2 && exit 1 ;; \
    esac \
    && rm /tmp/requirements-finetune.txt
COPY models models
RUN python3 -m pip install --quiet --no-deps --force-reinstall . \
    && rm -rf models build pyproject.toml
COPY --from=kernels /kernels kernels
COPY quickstart quickstart
COPY docker/healthcheck.sh docker/entrypoint.sh ./

# Any user can run it: the home is writable for everyone, and users that are not in /etc/passwd have a name.
ENV HOME=/tmp LOGNAME=bert BERT_LARGE_KERNELS_DIR=/workspace/bert-large/kernels
USER 1000:1000
HEALTHCHECK --interval=60s --timeout=10s CMD ["/workspace/bert-large/healthcheck.sh"]
ENTRYPOINT ["/workspace/bert-large/entrypoint.sh"]
CMD ["--help"]

LABEL org.opencontainers.image.title="BERT-large training" \
      org.opencontainers.image.description="BERT pretraining on CPUs" \
      org.opencontainers.image.licenses="Apache-2.0"
