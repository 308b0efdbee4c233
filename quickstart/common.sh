# shellcheck shell=bash
# Functions of the quickstart scripts, run.sh and build.sh: help, checks of variables, and the start of the package.
# Sourced, never run; it starts nothing by itself. variables.sh has the names of the variables.
# shellcheck disable=SC2034  # several of these are used only by the scripts that source this file

PROGRAM="${0##*/}"
QUICKSTART_DIR="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
PROJECT_DIR="$(dirname -- "$QUICKSTART_DIR")"
IMAGE_NAME="${IMAGE_NAME:-model-zoo:pytorch-bert-large-training}"
# shellcheck source=variables.sh
source "$QUICKSTART_DIR/variables.sh"

die() {
  local message="$*"
  printf '%s: error: %s\n' "$PROGRAM" "${message//[[:cntrl:]]/?}" >&2 # one line, whatever a variable holds
  exit 2
}

# problem MESSAGE: note a problem for report_problems.
PROBLEMS=()
problem() {
  PROBLEMS+=("$*")
}

# Stop with one line that has all problems noted.
report_problems() {
  local message
  ((${#PROBLEMS[@]} > 0)) || return 0
  printf -v message '%s; ' "${PROBLEMS[@]}"
  die "${message%; }"
}

# show_help KINDS [ARGUMENT ...]: if the first argument asks for help, print the header of the running script and the
# variables of these kinds, which are prefixes in variables.sh, and exit.
show_help() {
  local kind kinds
  [[ "${2:-}" == @(-h|--help) ]] || return 0
  read -r -a kinds <<<"$1"
  sed -n '2,/^set /s/^#\( \|$\)//p' "$0"
  printf '\nVariables:\n'
  for kind in "${kinds[@]}"; do
    "print_${kind}_help"
  done
  printf '\nThe allowed values, and the options of the commands, are in docs/settings.md.\n'
  exit 0
}

# Print the scripts that run.sh can start, one per line. `make demo` runs the demo, which is not among them.
quickstart_scripts() {
  local path
  for path in "$QUICKSTART_DIR"/*.sh; do
    [[ "${path##*/}" == @(common|variables|demo).sh ]] || printf '%s\n' "${path##*/}"
  done
}

# describe_script SCRIPT: set KIND (the prefix of its lists in variables.sh), SCRIPT_VARIABLES, REQUIRED_VARIABLES,
# INPUT_VARIABLES (paths that must exist) and OUTPUT_VARIABLES (folders that are made).
describe_script() {
  case "$1" in
    run_bert_pretrain_phase[12].sh)
      KIND=PRETRAIN REQUIRED_VARIABLES=(PRECISION OUTPUT_DIR)
      [[ -n "${TEXT_DIR:-}" ]] || REQUIRED_VARIABLES+=(DATASET_DIR)
      ;;&
    run_bert_pretrain_phase1.sh) REQUIRED_VARIABLES+=(CONFIG_FILE) ;;
    run_bert_pretrain_phase2.sh) REQUIRED_VARIABLES+=(CHECKPOINT_DIR) ;;
    run_finetune.sh) KIND=FINETUNE REQUIRED_VARIABLES=(TASK CHECKPOINT_DIR OUTPUT_DIR) ;;
    prepare_dataset.sh) KIND=PREPARE REQUIRED_VARIABLES=(INPUT_DIR DATASET_DIR) ;;
  esac
  local -n variables="${KIND}_VARIABLES" inputs="${KIND}_INPUTS" outputs="${KIND}_OUTPUTS"
  SCRIPT_VARIABLES=("${variables[@]}") INPUT_VARIABLES=("${inputs[@]}") OUTPUT_VARIABLES=("${outputs[@]}")
  if [[ "$KIND" == FINETUNE && -n "${DATASET_DIR:-}" ]]; then
    OUTPUT_VARIABLES=(OUTPUT_DIR) # not HF_HOME: nothing is downloaded
  fi
}

# Set each variable from its other name, if only that is set.
apply_aliases() {
  local alias name
  for alias in "${VARIABLE_ALIASES[@]}"; do
    name="${alias#*=}" alias="${alias%%=*}"
    if [[ -n "${!alias:-}" && -z "${!name:-}" ]]; then
      export "$name=${!alias}"
    fi
  done
}

# Unset the settings of all scripts, except where the package is and how many threads it may use.
unset_settings() {
  local name
  for name in "${PRETRAIN_VARIABLES[@]}" "${FINETUNE_VARIABLES[@]}" "${PREPARE_VARIABLES[@]}" \
    "${VARIABLE_ALIASES[@]%%=*}"; do
    [[ "$name" == @(MODEL_DIR|OMP_NUM_THREADS) ]] || unset -v "$name"
  done
}

# check_names NAME ...: note every exported variable whose name is a misspelling or the start of one of these: a letter too many, too
# few or wrong, two letters swapped, or another case. Two names that differ so become equal when one letter is deleted
# from one or both. Names of fewer than six letters are left out: too many other names resemble them.
check_names() {
  local name upper place
  local -A known=() shortened=()
  for name in "${PRETRAIN_VARIABLES[@]}" "${FINETUNE_VARIABLES[@]}" "${PREPARE_VARIABLES[@]}" \
    "${CONTAINER_VARIABLES[@]}" "${BUILD_VARIABLES[@]}" "${OTHER_VARIABLES[@]}" "${FOREIGN_VARIABLES[@]}" \
    "${VARIABLE_ALIASES[@]%%=*}" PYTHON2 PYTHON3; do
    known[$name]=yes
  done
  for name in "$@"; do
    ((${#name} >= 6)) || continue
    for ((place = 0; place <= ${#name}; place++)); do
      shortened[${name:0:place}${name:place+1}]="$name"
    done
  done
  while IFS= read -r name; do
    [[ -z "${known[$name]:-}" && ${#name} -ge 5 && -n "${!name}" ]] || continue
    upper="${name^^}"
    for ((place = 0; place <= ${#name}; place++)); do
      if [[ -n "${shortened[${upper:0:place}${upper:place+1}]:-}" ]]; then
        problem "$name is not a variable of $PROGRAM; did you mean" \
          "${shortened[${upper:0:place}${upper:place+1}]}? (unset $name if it is for another program)"
        continue 2
      fi
    done
    for place in "$@"; do # the start of a name: an error if most of it is there, else perhaps for another program
      [[ ${#name} -lt ${#place} && "${place:0:${#name}}" == "$upper" ]] || continue
      if ((4 * ${#name} >= 3 * ${#place})); then
        problem "$name is not a variable of $PROGRAM; did you mean $place? (unset $name if it is for another program)"
      elif [[ "${place:${#name}:1}" == _ ]]; then
        printf '%s: warning: %s is not a variable of this script; did you mean %s?\n' "$PROGRAM" "$name" "$place" >&2
      else
        continue
      fi
      break
    done
  done < <(compgen -e)
}

# check_variables SCRIPT: stop with exit code 2 and one line on all missing or wrong variables of SCRIPT, or make its
# output folders.
check_variables() {
  local name missing=()
  describe_script "$1"
  apply_aliases
  check_names "${SCRIPT_VARIABLES[@]}" "${CONTAINER_VARIABLES[@]}"
  for name in "${REQUIRED_VARIABLES[@]}"; do
    [[ -n "${!name:-}" ]] || missing+=("$name")
  done
  ((${#missing[@]} == 0)) || problem "$1 needs ${missing[*]}: not set (docs/settings.md and $1 --help explain them)"
  if [[ "$KIND" == PRETRAIN && -n "${TEXT_DIR:-}" && -n "${DATASET_DIR:-}" ]]; then
    problem "DATASET_DIR and TEXT_DIR are both set: give records, or text to make them of"
  fi
  if [[ "$KIND" == PREPARE && -n "${VOCAB_FILE:-}" && -n "${VOCAB_SIZE:-}" ]]; then
    problem "VOCAB_FILE and VOCAB_SIZE are both set: give a vocabulary, or the size of one to train"
  fi
  check_choices
  for name in "${INPUT_VARIABLES[@]}"; do
    check_input "$name"
  done
  report_problems
  for name in "${OUTPUT_VARIABLES[@]}"; do
    [[ -z "${!name:-}" ]] || make_output "$name"
  done
}

# Note variables that have none of their allowed words, and replace the others by the word in lower case.
check_choices() {
  local -n choices="${KIND}_CHOICES"
  local name value
  for name in "${!choices[@]}"; do
    value="${!name:-}"
    [[ -n "$value" ]] || continue
    if [[ "$value" != *[[:space:]]* && " ${choices[$name]} " == *" ${value,,} "* ]]; then
      export "$name=${value,,}"
    else
      problem "$name=$value is unknown: choose one of ${choices[$name]}"
    fi
  done
  if [[ "${DDP:-}" == @(1|yes) ]]; then
    export DDP=true # the launcher's word
  fi
  for name in RANKS_PER_NODE NNODES; do # the launcher checks the other variables of several ranks
    [[ "${!name:-1}" =~ ^[1-9][0-9]*$ ]] || problem "$name=${!name} is not a whole number above 0"
  done
}

# holds_path NAME: whether a variable is set and its value is a path; some of them also take words, and CHECKPOINT_DIR the
# name of a model on Hugging Face's hub, as in models/bert_large/hub.py.
holds_path() {
  local value="${!1:-}"
  if [[ "$1" == CHECKPOINT_DIR && "$value" =~ ^[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+$ && ! -e "${value%/*}" ]]; then
    return 1
  fi
  [[ -n "$value" && ("$value" == *[[:space:]]* || " ${PATH_WORDS[$1]:-} " != *" $value "*) ]]
}

check_input() {
  local name="$1" path="${!1:-}"
  holds_path "$name" || return 0
  case "$name" in
    RESUME)
      [[ -e "$path" ]] || problem "$name=$path is neither auto nor never, and no such checkpoint exists"
      ;;
    MODEL_DIR)
      [[ -d "$path/models/bert_large" ]] || problem "$name=$path has no models/bert_large in it"
      [[ "$path" != *:* ]] || problem "$name=$path has a colon in it, which separates paths in PYTHONPATH: rename it"
      ;;
    *_DIR) [[ -d "$path" ]] || problem "$name=$path is not a directory" ;;
    CONFIG_FILE) [[ -f "$path" ]] || problem "$name=$path is not a file, nor one of ${PATH_WORDS[$name]}" ;;
    *) [[ -f "$path" ]] || problem "$name=$path is not a file" ;;
  esac
  [[ ! -e "$path" || -r "$path" ]] || problem "$name=$path is not readable for uid $(id -u)"
}

make_output() {
  local name="$1" path="${!1}"
  mkdir -p -- "$path" 2>/dev/null || die "$name=$path cannot be made a directory"
  [[ -w "$path" ]] || die "$name=$path is not writable for uid $(id -u)"
}

# Set CONTAINER_ENGINE to docker or podman, whichever answers, unless it is set already.
choose_engine() {
  local engine engines=(docker podman) reasons=()
  [[ -z "${CONTAINER_ENGINE:-}" ]] || engines=("$CONTAINER_ENGINE")
  for engine in "${engines[@]}"; do
    if ! command -v "$engine" >/dev/null; then
      reasons+=("$engine is not installed,")
    elif ! "$engine" version >/dev/null 2>&1; then
      reasons+=("$engine does not answer (is its service running, and may uid $(id -u) use it?),")
    else
      CONTAINER_ENGINE="$engine"
      return
    fi
  done
  die "no container engine: ${reasons[*]} so install or start one, name another in CONTAINER_ENGINE," \
    "or do without: RUNTIME=native ./run.sh"
}

# split_words NAME: set WORDS to the words of a variable's value, split as a shell does, but with nothing expanded.
split_words() {
  local lines
  WORDS=()
  lines="$(xargs -r printf '%s\n' <<<"${!1:-}" 2>/dev/null)" ||
    die "$1=${!1} cannot be split into words: is a quote left open?"
  [[ -z "$lines" ]] || mapfile -t WORDS <<<"$lines"
}

# Set PYTHON to the interpreter that runs the package: PYTHON, else the project's environment, else python3; and let
# it find the package in MODEL_DIR.
choose_python() {
  if [[ -z "${PYTHON:-}" ]]; then
    PYTHON="$PROJECT_DIR/.venv/bin/python"
    [[ -x "$PYTHON" ]] || PYTHON=python3
  fi
  MODEL_DIR="${MODEL_DIR:-$PROJECT_DIR}"
  if [[ -d "$MODEL_DIR/models/bert_large" ]]; then
    export PYTHONPATH="$MODEL_DIR/models${PYTHONPATH:+:$PYTHONPATH}"
  fi
  command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON is not there: run 'make setup' in $PROJECT_DIR first"
  "$PYTHON" -c 'import sys; from importlib.util import find_spec
sys.exit(not (find_spec("bert_large") and find_spec("torch")))' ||
    die "PYTHON=$PYTHON lacks the bert_large package or torch: run 'make setup' in $PROJECT_DIR first"
}

# Run a command to its end; a signal that would end this script ends the command, and this script with its exit code.
run_to_end() {
  local child code signalled=yes
  "$@" &
  child=$!
  trap 'signalled=yes; kill -s TERM "$child" 2>/dev/null || true' TERM INT HUP
  while [[ -n "$signalled" ]]; do # a signal ends the wait before the command
    signalled="" code=0
    wait "$child" || code=$?
  done
  trap - TERM INT HUP
  ((code == 0)) || exit "$code"
}

# Allow oneDNN the instructions that the precision needs: AMX where there is AMX, or, for avx-fp32, its own choice.
set_instruction_set() {
  case "${PRECISION:-fp32}" in
    avx-fp32) unset DNNL_MAX_CPU_ISA ;;
    fp16) export DNNL_MAX_CPU_ISA=AVX512_CORE_AMX_FP16 ;;
    *) export DNNL_MAX_CPU_ISA=AVX512_CORE_AMX ;;
  esac
}

# find_allocator NAME: print the path of the system's library of tcmalloc or jemalloc; fail if there is none.
find_allocator() {
  local file libraries
  local -A files=([tcmalloc]="libtcmalloc_minimal.so.4 libtcmalloc.so.4" [jemalloc]="libjemalloc.so.2")
  libraries="$(PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null)" || return 1 # not on every user's path
  for file in ${files[$1]}; do
    if [[ "$libraries" =~ [[:space:]]"$file "[^$'\n']*" => "([^$'\n']+) ]]; then
      printf '%s\n' "${BASH_REMATCH[1]}"
      return
    fi
  done
  return 1
}

# Preload the memory allocator that ALLOCATOR names. The user's own settings of allocators are kept.
choose_allocator() {
  local choice="${ALLOCATOR:-auto}" library=""
  if [[ "$choice" == auto ]]; then
    [[ "${LD_PRELOAD:-}" != *malloc* ]] || return 0 # the user has chosen
    choice=tcmalloc # not jemalloc: with these settings the eager engine had 17 times the C library's page faults
    library="$(find_allocator tcmalloc)" || choice=system
  elif [[ "$choice" != system ]]; then
    library="$(find_allocator "$choice")" ||
      die "ALLOCATOR=$choice is not installed here (Debian, Ubuntu: libtcmalloc-minimal4, libjemalloc2): install it," \
        "or choose auto or system"
  fi
  case "$choice" in
    tcmalloc) # without its report of every block over 1 GB
      export TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD="${TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD:-0}"
      ;;
    jemalloc) # freed memory is kept, as in Intel's package
      local keep=dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000
      export MALLOC_CONF="${MALLOC_CONF:-oversize_threshold:1,background_thread:true,metadata_thp:auto,$keep}"
      ;;
    system) # huge pages; versions of the C library before 2.35 ignore the setting
      [[ "${GLIBC_TUNABLES:-}" == *glibc.malloc.hugetlb=* ]] ||
        export GLIBC_TUNABLES="${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1"
      ;;
  esac
  [[ -z "$library" ]] || export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
}

# Preload Intel's OpenMP if OPENMP=intel. Loaded first, it takes all calls of PyTorch and the kernels, so that there is
# no second pool of threads.
choose_openmp() {
  local library
  [[ "${OPENMP:-}" == intel ]] || return 0
  library="$("$PYTHON" -c 'import sys; print(sys.prefix)')/lib/libiomp5.so"
  [[ -f "$library" ]] ||
    die "OPENMP=intel, but $library is not there: install the Python package intel-openmp, or choose pytorch"
  export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
}

# prepare_process SCRIPT: check the variables, and set up the environment in which the package computes.
prepare_process() {
  check_variables "$1"
  choose_allocator
  choose_python
  set_instruction_set
  choose_openmp
}

# run_pretrain PHASE [OPTION ...]: become the trainer, so that signals and the exit code are the trainer's. The launcher
# decides the number of ranks and where each computes.
run_pretrain() {
  local phase="$1" entry=(-m bert_large)
  shift
  show_help PRETRAIN "$@"
  prepare_process "run_bert_pretrain_phase$phase.sh"
  if [[ -n "${TRAIN_SCRIPT:-}" ]]; then
    entry=("$TRAIN_SCRIPT")
  fi
  exec "$PYTHON" -m bert_large.distributed.launch "${entry[@]}" pretrain --phase "$phase" --from-environment "$@"
}
