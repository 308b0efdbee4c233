#!/usr/bin/env bash
# Build the training image, model-zoo:pytorch-bert-large-training.
#
# Usage: [VARIABLE=value ...] ./build.sh
#   ./build.sh                  on the IPEX base
#   BASE=stock ./build.sh       on stock PyTorch for CPUs
#   FINETUNE=1 ./build.sh       with the packages of run_finetune.sh
# Either base is built first if it is missing. docs/containers.md explains which one to use.
#
# Optional variables:
#   BASE                ipex (default) or stock: the base
#   BASE_IMAGE          any other base: an image whose python3 has torch and pip (default: the image of BASE)
#   PYTHON_IMAGE        image that the base is built on: Debian or Ubuntu with python3 and its venv (default
#                       python:3.11-slim-bookworm)
#   TORCH_VERSION, IPEX_VERSION, ONECCL_VERSION   versions in the base (default: those in docker/*.Dockerfile)
#   TORCH_BUILD         cpu (default), or any: if no build for CPUs is available, take one for GPUs, gigabytes larger
#   ONECCL              auto (default): the IPEX base has the oneCCL bindings if ONECCL_INDEX_URL is given and has them;
#                       required: fail without them; none. The image's label bert-large.base and the log of a run show
#                       the result
#   ONECCL_INDEX_URL    package index that has oneccl_bind_pt: Intel's own
#   FINETUNE            1: the image also has the packages for run_finetune.sh, about 500 MB more; 0 (default)
#   IMAGE_NAME          name of the result (default model-zoo:pytorch-bert-large-training)
#   CONTAINER_ENGINE    docker or podman (default: the first that answers)
#   DOCKER_BUILD_ARGS   more arguments for `docker build`, split into words as a shell does, without expansion
#   SOURCE_DATE_EPOCH   creation time for the images' label "created", in seconds since 1970 (default: no such label, so
#                       that building again without changes gives the same image)
#   http_proxy https_proxy no_proxy, also in upper case, and PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
#   PIP_TRUSTED_HOST    used while building; they do not stay in the image's environment, but PIP_... and
#                       ONECCL_INDEX_URL are visible in its history: keep passwords out of them
set -euo pipefail

# shellcheck source=quickstart/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/quickstart/common.sh"

case "${1:-}" in
  "") ;;
  -h | --help)
    sed -n '2,/^set /s/^#\( \|$\)//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) die "$1 is not an option: build.sh takes variables only, see ./build.sh --help" ;;
esac

# build_image NAME DOCKERFILE [ARGUMENT ...]
build_image() {
  local name="$1" file="$2"
  shift 2
  "$CONTAINER_ENGINE" build --tag "$name" --file "$PROJECT_DIR/$file" "${BUILD_ARGUMENTS[@]}" "${LABELS[@]}" "$@" \
    "$PROJECT_DIR"
}

# build_base BASE: build the base, and label it with the versions in it.
build_base() {
  local note
  pass_by_name PYTHON_IMAGE TORCH_VERSION TORCH_BUILD
  [[ "$1" != ipex ]] || pass_by_name IPEX_VERSION ONECCL ONECCL_VERSION ONECCL_INDEX_URL
  build_image "$BASE_IMAGE" "docker/$1.Dockerfile" "${BY_NAME[@]}"
  note="$("$CONTAINER_ENGINE" run --rm --network none "$BASE_IMAGE" cat /opt/venv/base_image.txt)"
  printf 'FROM %s\nLABEL bert-large.base="%s"\n' "$BASE_IMAGE" "$note" |
    "$CONTAINER_ENGINE" build --tag "$BASE_IMAGE" --file - "$PROJECT_DIR/docker"
  echo "Built $BASE_IMAGE: $note."
}

# pass_by_name NAME ...: add build arguments for the variables that are set; the engine reads their values itself.
BY_NAME=()
pass_by_name() {
  local name
  for name in "$@"; do
    if [[ -n "${!name:-}" ]]; then
      export "${name?}"
      BY_NAME+=(--build-arg "$name")
    fi
  done
}

has_image() {
  "$CONTAINER_ENGINE" image inspect "$1" >/dev/null 2>&1
}

BASE="${BASE:-ipex}"
case "$BASE" in
  ipex) default_base=model-zoo:pytorch-ipex-spr ;;
  stock) default_base=model-zoo:pytorch-stock ;;
  *) die "BASE=$BASE is unknown: choose ipex or stock" ;;
esac
[[ "${FINETUNE:-0}" == [01] ]] || die "FINETUNE=$FINETUNE is unknown: choose 0 or 1"
BASE_IMAGE="${BASE_IMAGE:-$default_base}"
split_words DOCKER_BUILD_ARGS
pass_by_name "${PROXY_VARIABLES[@]}" PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST
BUILD_ARGUMENTS=("${WORDS[@]}" "${BY_NAME[@]}")
BY_NAME=()
choose_engine
if [[ "${CONTAINER_ENGINE##*/}" == podman ]]; then
  BUILD_ARGUMENTS+=(--format docker) # podman's default format has no health check
fi

version="$(sed -n 's/^version = "\(.*\)"$/\1/p' "$PROJECT_DIR/pyproject.toml")"
revision="$(git -C "$PROJECT_DIR" describe --always --dirty --abbrev=40 --exclude "*" 2>/dev/null || true)"
LABELS=(
  --label "org.opencontainers.image.version=$version"
  ${revision:+--label "org.opencontainers.image.revision=$revision"}
)
if [[ -n "${SOURCE_DATE_EPOCH:-}" ]]; then
  created="$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null)" ||
    die "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH is not a number of seconds since 1970"
  LABELS+=(--label "org.opencontainers.image.created=$created")
fi

if ! has_image "$BASE_IMAGE"; then
  [[ "$BASE_IMAGE" == "$default_base" ]] ||
    die "base image $BASE_IMAGE is missing from $CONTAINER_ENGINE: build or load it, name another in BASE_IMAGE," \
      "or leave BASE_IMAGE out: BASE=ipex and BASE=stock build theirs"
  build_base "$BASE"
fi
BY_NAME=()
pass_by_name FINETUNE
build_image "$IMAGE_NAME" Dockerfile --build-arg "BASE_IMAGE=$BASE_IMAGE" "${BY_NAME[@]}" \
  --label "org.opencontainers.image.base.name=$BASE_IMAGE"
echo "Built $IMAGE_NAME on $BASE_IMAGE."
