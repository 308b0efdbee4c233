#!/usr/bin/env bash
# Run a quickstart script in the container that build.sh makes, or without a container.
#
# Usage: VARIABLE=value ... ./run.sh [OPTION OF THE SCRIPT'S COMMAND ...]
#   PRECISION=bf16 OUTPUT_DIR=... DATASET_DIR=... CONFIG_FILE=... ./run.sh
#   SCRIPT=run_bert_pretrain_phase2.sh PRECISION=bf16 OUTPUT_DIR=... DATASET_DIR=... CHECKPOINT_DIR=... ./run.sh
#
# Required variables: those of the script. --help lists them and the optional ones.
#
# Every path has the same name inside. The script's output folder, INDEX_DIR and HF_HOME are writable; everything else
# that a variable names is read-only, and so is the image; /tmp is empty and in memory. The container runs as the calling
# user, without any capability, and ends with the script: signals reach the script's command and its exit code comes back.
# Proxy variables are passed on. The engine shows the run's health: whether its log still grows (docker/healthcheck.sh).
# With several machines it uses the host's network. CONTAINER_ENGINE=apptainer (or singularity) runs the image file that
# IMAGE_NAME names (jobs/apptainer): the same paths, user and variables, with the host's /tmp, /dev/shm and network, and
# without a health check. Docker's seccomp profile prevents containers without CAP_SYS_NICE
# from binding memory to NUMA nodes; ranks log that and are bound only to their cores. DOCKER_ARGS="--cap-add SYS_NICE"
# lets them bind memory too.
set -euo pipefail

# shellcheck source=quickstart/common.sh
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/quickstart/common.sh"

# add_mount PATH OPTIONS: add a bind mount to MOUNTS, once per path; the options of the first call count.
declare -A MOUNTED=()
MOUNTS=()
add_mount() {
  local path="$1" options="$2" source="source=$1" target="target=$1"
  if [[ -n "${MOUNTED[$path]:-}" ]]; then
    return
  fi
  MOUNTED[$path]=yes
  if [[ "$path" == *[,\"]* ]]; then # the engines read these as fields of CSV
    source="\"${source//\"/\"\"}\"" target="\"${target//\"/\"\"}\""
  fi
  MOUNTS+=(--mount "type=bind,$source,$target$options")
}

# Make every path absolute, with links followed, and mount it.
mount_paths() {
  local name path
  for name in "${OUTPUT_VARIABLES[@]}" "${INPUT_VARIABLES[@]}"; do
    holds_path "$name" || continue
    IFS= read -r -d "" path < <(realpath --zero -- "${!name}")
    [[ "$path" != *[[:cntrl:]]* ]] || die "$name=$path has a line break or another control character, which container" \
      "engines cannot mount: rename it, or use RUNTIME=native"
    export "$name=$path"
    if [[ " ${OUTPUT_VARIABLES[*]} " == *" $name "* ]]; then
      add_mount "$path" ""
    elif [[ "$name" == @(CHECKPOINT_DIR|RESUME) && "$path" == "${OUTPUT_DIR:-}"/* ]]; then
      continue # it is inside the output folder, which is mounted writable
    else
      add_mount "$path" ",readonly"
    fi
  done
}

# Without INDEX_DIR, keep the index of the records in the caller's cache: DATASET_DIR is read-only inside, and the home
# directory is empty.
choose_index_dir() {
  local cache="${XDG_CACHE_HOME:-}"
  [[ "$cache" == /* ]] || cache="${HOME:-}/.cache"
  cache+="/bert-large/index"
  if [[ "$KIND" == PRETRAIN && -n "${DATASET_DIR:-}" && -z "${INDEX_DIR:-}" && -n "${HOME:-}" ]] &&
    mkdir -p -- "$cache" 2>/dev/null && [[ -w "$cache" ]]; then
    export INDEX_DIR="$cache"
  fi
}

# Set PASSED to the names of the variables to pass on: those that are set.
choose_variables() {
  local name
  PASSED=()
  for name in "${SCRIPT_VARIABLES[@]}" "${FOREIGN_VARIABLES[@]}" "${PROXY_VARIABLES[@]}"; do
    if [[ "$name" == HF_HOME && " ${OUTPUT_VARIABLES[*]} " != *" HF_HOME "* ]]; then
      continue # it is not mounted
    fi
    if [[ -n "${!name:-}" ]]; then
      PASSED+=("$name")
    fi
  done
}

# check_docker_args COMMAND: stop if DOCKER_ARGS, in WORDS, has an option that this command of the engine does not know:
# with --help it reads options, but runs nothing.
check_docker_args() {
  local output
  ((${#WORDS[@]} > 0)) || return 0
  [[ "${WORDS[0]}" == -* ]] || die "DOCKER_ARGS=$DOCKER_ARGS does not begin with an option of $CONTAINER_ENGINE $1"
  output="$("$CONTAINER_ENGINE" "$1" --help "${WORDS[@]}" 2>&1 >/dev/null)" ||
    die "DOCKER_ARGS=$DOCKER_ARGS is refused by $CONTAINER_ENGINE $1: ${output%%$'\n'*}"
}

# run_image [OPTION ...]: become the container of an image in the store of Docker or Podman.
run_image() {
  local name group user options
  check_docker_args run
  "$CONTAINER_ENGINE" image inspect "$IMAGE_NAME" >/dev/null 2>&1 ||
    die "image $IMAGE_NAME is missing from $CONTAINER_ENGINE: build it with ./build.sh, or name another in IMAGE_NAME"
  mount_paths
  choose_variables
  options=(--rm --init --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges
    --shm-size "${SHM_SIZE:-8G}" --env HOME=/tmp)
  options+=(--stop-timeout 300) # an engine's 10 seconds are too few to write a checkpoint of BERT-large
  for name in "${PASSED[@]}"; do # by name: the engine takes the value itself
    export "${name?}"
    options+=(--env "$name")
  done
  user="$(id -u):$(id -g)"
  # Engines that run as a user who is not root map user ids; inside must be who maps to the caller outside.
  if [[ "${CONTAINER_ENGINE##*/}" == podman ]]; then
    add_podman_options
    (($(id -u) == 0)) || options+=(--userns keep-id)
  elif [[ "$("$CONTAINER_ENGINE" info --format '{{.SecurityOptions}}')" == *rootless* ]]; then
    user=0:0
  fi
  options+=(--user "$user")
  # Files that the caller may read or write through a supplementary group stay accessible. Rootless engines cannot map
  # these groups by number: Podman can keep them (with the runtime crun), Docker cannot.
  if [[ "${CONTAINER_ENGINE##*/}" == podman ]] && (($(id -u) != 0)); then
    options+=(--group-add keep-groups)
  elif [[ "$user" != 0:0 || "$(id -u)" == 0 ]]; then
    for group in $(id -G); do
      [[ "$group" == "$(id -g)" ]] || options+=(--group-add "$group")
    done
  fi
  if [[ -t 0 && -t 1 ]]; then
    options+=(--interactive --tty)
  fi
  if ((${NNODES:-1} > 1)) || [[ -n "${HOSTFILE:-}" ]]; then
    options+=(--network host)
  fi
  exec "$CONTAINER_ENGINE" run "${options[@]}" "${MOUNTS[@]}" "${WORDS[@]}" \
    "$IMAGE_NAME" "/workspace/bert-large/quickstart/$SCRIPT" "$@"
}

# add_podman_options: add to the caller's `options` what Podman needs beside the options of Docker.
add_podman_options() {
  local files processes most probe
  # Its own limits for root are higher than a caller with lower ones, such as a container, may set. It lowers the number
  # of processes to the kernel's largest process id, above which nothing may be set any more.
  files="$(ulimit -Hn)" processes="$(ulimit -Hu)" most="$(</proc/sys/kernel/pid_max)"
  [[ "$files" == unlimited ]] || options+=(--ulimit "nofile=$files:$files")
  if [[ "$processes" != unlimited ]]; then
    processes=$((processes < most ? processes : most))
    options+=(--ulimit "nproc=$processes:$processes")
  fi
  [[ -d "/run/systemd/system" ]] || options+=(--no-healthcheck) # they are timers of systemd
  probe="$("$CONTAINER_ENGINE" create --init --pull never "$IMAGE_NAME" true 2>&1)" ||
    die "$CONTAINER_ENGINE cannot prepare a container with --init, for which it needs catatonit (Debian, Ubuntu, Fedora:" \
      "the package catatonit): ${probe##*$'\n'}"
  "$CONTAINER_ENGINE" rm "${probe##*$'\n'}" >/dev/null
}

# run_image_file [OPTION ...]: become the container of an image file of Apptainer or SingularityCE, which runs as the
# caller, with the caller's groups, on a read-only image.
run_image_file() {
  local name prefix="${CONTAINER_ENGINE##*/}ENV_"
  prefix="${prefix^^}"
  check_docker_args exec
  [[ -e "$IMAGE_NAME" ]] || die "IMAGE_NAME=$IMAGE_NAME is not an image file of $CONTAINER_ENGINE: name one that" \
    "jobs/apptainer/bert-large.def was built into"
  mount_paths
  choose_variables
  for name in "${PASSED[@]}"; do
    export "$prefix$name=${!name}"
  done
  exec "$CONTAINER_ENGINE" exec --cleanenv --no-home --no-mount cwd --no-privs --pwd / "${MOUNTS[@]}" "${WORDS[@]}" \
    "$IMAGE_NAME" "/workspace/bert-large/quickstart/$SCRIPT" "$@"
}

[[ "${TRAINING_PHASE:-1}" == [12] ]] || die "TRAINING_PHASE=$TRAINING_PHASE is unknown: choose 1 or 2"
SCRIPT="${SCRIPT:-run_bert_pretrain_phase${TRAINING_PHASE:-1}.sh}"
mapfile -t scripts < <(quickstart_scripts)
[[ "$SCRIPT" != *[/\ ]* && " ${scripts[*]} " == *" $SCRIPT "* ]] ||
  die "SCRIPT=$SCRIPT is unknown: choose one of ${scripts[*]}"
describe_script "$SCRIPT"
show_help "CONTAINER $KIND" "$@"

case "${RUNTIME:-container}" in
  native) exec "$QUICKSTART_DIR/$SCRIPT" "$@" ;;
  container) ;;
  *) die "RUNTIME=$RUNTIME is unknown: choose container or native" ;;
esac

choose_index_dir
check_variables "$SCRIPT"
split_words DOCKER_ARGS
choose_engine
case "${CONTAINER_ENGINE##*/}" in
  apptainer | singularity) run_image_file "$@" ;;
  *) run_image "$@" ;;
esac
