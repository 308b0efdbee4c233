#!/usr/bin/env bash
# Build the training image, model-zoo:pytorch-bert-large-training.
#
# Usage: [VARIABLE=value ...] ./build.sh
#   ./build.sh                  on the IPEX base, with version 2.7.0
#   IPEX_VERSION=2.8.0 ./build.sh   on the IPEX base, with its last version, which has no oneCCL bindings
#   BASE=stock ./build.sh       on stock PyTorch for CPUs
#   FINETUNE=1 ./build.sh       with the packages of run_finetune.sh
# Either base is built first if it is missing. docs/containers.md explains which one to use.
#
# Proxies and pip's settings (http_proxy, https_proxy, no_proxy, also in upper case; PIP_INDEX_URL, PIP_EXTRA_INDEX_URL,
# PIP_FIND_LINKS, PIP_TRUSTED_HOST) are used while building. They do not stay in the image's environment, but PIP_... and
# ONECCL_INDEX_URL are visible in its history: keep passwords out of them. --help lists the variables.
set -euo pipefail

# shellcheck source=quickstart/common.sh
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/quickstart/common.sh"

show_help BUILD "$@"
(($# == 0)) || die "$1 is not an option: build.sh takes variables only, see ./build.sh --help"
check_names "${BUILD_VARIABLES[@]}" CONTAINER_ENGINE IMAGE_NAME
report_problems

# build_image NAME DOCKERFILE [ARGUMENT ...]: build an image. Docker's legacy builder prints four lines per instruction;
# with --quiet it prints the output of a build that fails.
build_image() {
  local name="$1" file="$2" quiet=()
  shift 2
  if [[ "${CONTAINER_ENGINE##*/}" == docker && "${DOCKER_BUILDKIT:-0}" != 1 ]] &&
    ! "$CONTAINER_ENGINE" buildx version >/dev/null 2>&1; then
    quiet=(--quiet)
    echo "Building $name ($file), for some minutes; DOCKER_BUILD_ARGS=--quiet=false shows the output ..."
  fi
  "$CONTAINER_ENGINE" build "${quiet[@]}" --tag "$name" --file "$PROJECT_DIR/$file" "${BUILD_ARGUMENTS[@]}" \
    "${LABELS[@]}" "$@" "$PROJECT_DIR"
}

# build_base BASE: build the base, and label it with the versions in it.
build_base() {
  local note
  if [[ "$1" == ipex && -n "${IPEX_VERSION:-}" ]]; then # each release of IPEX and of the bindings is for one of PyTorch
    TORCH_VERSION="${TORCH_VERSION:-$IPEX_VERSION}" ONECCL_VERSION="${ONECCL_VERSION:-$IPEX_VERSION}"
  fi
  pass_by_name PYTHON_IMAGE TORCH_VERSION TORCH_BUILD
  [[ "$1" != ipex ]] || pass_by_name IPEX_VERSION ONECCL ONECCL_VERSION ONECCL_INDEX_URL
  build_image "$BASE_IMAGE" "docker/$1.Dockerfile" "${BY_NAME[@]}"
  note="$("$CONTAINER_ENGINE" run --rm --network none "$BASE_IMAGE" cat /opt/venv/base_image.txt)"
  printf 'FROM %s\nLABEL bert-large.base="%s"\n' "$BASE_IMAGE" "$note" |
    "$CONTAINER_ENGINE" build --quiet --tag "$BASE_IMAGE" --file - "$PROJECT_DIR/docker"
  echo "Built $BASE_IMAGE: $note."
}

# check_base BASE: stop if the label of the existing base, which lists its versions, contradicts the variables.
check_base() {
  local label part parts=()
  label="$("$CONTAINER_ENGINE" image inspect "$BASE_IMAGE" --format '{{index .Config.Labels "bert-large.base"}}')"
  [[ -z "${TORCH_VERSION:-}" ]] || parts+=("torch $TORCH_VERSION")
  [[ "$1" != ipex || -z "${IPEX_VERSION:-}" ]] || parts+=("IPEX $IPEX_VERSION")
  [[ "$1" != ipex || "${ONECCL:-}" != required ]] || parts+=("oneCCL${ONECCL_VERSION:+ $ONECCL_VERSION}")
  for part in "${parts[@]}"; do
    [[ ", $label," == *", $part"* ]] ||
      die "$part was asked for, but the existing base $BASE_IMAGE has ${label:-no label that lists its versions}: rename" \
        "it ($CONTAINER_ENGINE tag) or remove it ($CONTAINER_ENGINE image rm) to build another, or unset the variable"
  done
  echo "Using the existing base $BASE_IMAGE: ${label:-versions unknown}."
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

BASE="${BASE:-ipex}" BASE="${BASE,,}"
case "$BASE" in
  ipex) default_base=model-zoo:pytorch-ipex-spr ;;
  stock) default_base=model-zoo:pytorch-stock ;;
  *) die "BASE=$BASE is unknown: choose ipex or stock" ;;
esac
case "${FINETUNE:-0}" in
  0 | false | no) unset -v FINETUNE ;;
  1 | true | yes) FINETUNE=1 ;;
  *) die "FINETUNE=$FINETUNE is unknown: choose 0 or 1" ;;
esac
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

if has_image "$BASE_IMAGE"; then
  check_base "$BASE"
else
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
