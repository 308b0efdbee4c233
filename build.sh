#!/usr/bin/env bash
# Build the training image, model-zoo:pytorch-bert-large-training.
#
# Usage: [VARIABLE=value ...] ./build.sh
#   ./build.sh                  on the IPEX base
#   BASE=stock ./build.sh       on stock PyTorch for CPUs, a base that this script builds if it is missing
#
# Optional variables:
#   BASE                ipex (default) or stock: which base
#   BASE_IMAGE          any other base: an image whose python3 has torch and pip (default: the image of BASE)
#   PYTHON_IMAGE        image that the stock base is built on (default python:3.11-slim-bookworm)
#   IMAGE_NAME          name of the result (default model-zoo:pytorch-bert-large-training)
#   CONTAINER_ENGINE    docker or podman (default: the first that answers)
#   DOCKER_BUILD_ARGS   more arguments for `docker build`, split into words as a shell does, nothing expanded
#   http_proxy https_proxy no_proxy, also in upper case, and PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
#   PIP_TRUSTED_HOST    used while building; they do not stay in the image's environment, but PIP_... show in its
#                       history: keep passwords out of them
set -euo pipefail

# shellcheck source=quickstart/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/quickstart/common.sh"

# build_image NAME DOCKERFILE [ARGUMENT ...]
build_image() {
  local name="$1" file="$2"
  shift 2
  "$CONTAINER_ENGINE" build --tag "$name" --file "$PROJECT_DIR/$file" "${BUILD_ARGUMENTS[@]}" "$@" "$PROJECT_DIR"
}

has_image() {
  "$CONTAINER_ENGINE" image inspect "$1" >/dev/null 2>&1
}

readonly STOCK_IMAGE=model-zoo:pytorch-stock
case "${BASE:-ipex}" in
  ipex) default_base=model-zoo:pytorch-ipex-spr ;;
  stock) default_base="$STOCK_IMAGE" ;;
  *) die "BASE=$BASE is unknown: choose ipex or stock" ;;
esac
BASE_IMAGE="${BASE_IMAGE:-$default_base}"
split_words DOCKER_BUILD_ARGS
BUILD_ARGUMENTS=("${WORDS[@]}")
for name in "${PROXY_VARIABLES[@]}" PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST; do
  if [[ -n "${!name:-}" ]]; then
    BUILD_ARGUMENTS+=(--build-arg "$name") # the engine takes the value from the environment
  fi
done
choose_engine

if ! has_image "$BASE_IMAGE"; then
  [[ "$BASE_IMAGE" == "$STOCK_IMAGE" ]] ||
    die "base image $BASE_IMAGE is missing from $CONTAINER_ENGINE: build or load it, name another in BASE_IMAGE," \
      "or use stock PyTorch with BASE=stock"
  build_image "$STOCK_IMAGE" docker/stock.Dockerfile ${PYTHON_IMAGE:+--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE"}
fi

version="$(sed -n 's/^version = "\(.*\)"$/\1/p' "$PROJECT_DIR/pyproject.toml")"
revision="$(git -C "$PROJECT_DIR" describe --always --dirty --abbrev=40 --exclude "*" 2>/dev/null || true)"
build_image "$IMAGE_NAME" Dockerfile --build-arg "BASE_IMAGE=$BASE_IMAGE" \
  --label "org.opencontainers.image.version=$version" \
  --label "org.opencontainers.image.base.name=$BASE_IMAGE" \
  ${revision:+--label "org.opencontainers.image.revision=$revision"}
echo "Built $IMAGE_NAME on $BASE_IMAGE."
