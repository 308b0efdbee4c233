# shellcheck shell=bash
# What the quickstart scripts, run.sh and build.sh share: the variables' names, their checks, and the command that
# they become. Sourced, never run; it starts nothing by itself.
# shellcheck disable=SC2034  # several of these are used only by the scripts that source this file

PROGRAM="${0##*/}"
QUICKSTART_DIR="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
PROJECT_DIR="$(dirname -- "$QUICKSTART_DIR")"
IMAGE_NAME="${IMAGE_NAME:-model-zoo:pytorch-bert-large-training}"

# A variable and the option of `bert-large pretrain` that it becomes.
PRETRAIN_OPTIONS=(
  PRECISION=--precision
  OUTPUT_DIR=--output-dir
  DATASET_DIR=--dataset-dir
  TEXT_DIR=--text-dir
  EVAL_DIR=--eval-dir
  CONFIG_FILE=--config-file
  CHECKPOINT_DIR=--checkpoint-dir
  VOCAB_FILE=--vocab-file
  ENGINE=--engine
  BACKEND=--backend
  RECIPE=--recipe
  BATCH_SIZE=--global-batch-size
  MICRO_BATCH_TOKENS=--micro-batch-tokens
  MAX_STEPS=--max-steps
  TOTAL_STEPS=--total-steps
  MAX_SAMPLES=--max-samples
  LEARNING_RATE=--learning-rate
  WARMUP_STEPS=--warmup-steps
  TARGET_ACCURACY=--target-accuracy
  SEED=--seed
  SAVE_EVERY=--save-every
  STOP_DEADLINE=--stop-deadline
  RESUME=--resume
  BAD_RECORDS=--bad-records
  MAX_BAD_RECORDS=--max-bad-records
  RANK_SILENCE=--rank-silence
  RANK_TIMEOUT=--rank-timeout
  MLPERF_LOG=--mlperf-log
  MLPERF_SUBMITTER=--mlperf-submitter
  MLPERF_PLATFORM=--mlperf-platform
  MLPERF_DIVISION=--mlperf-division
  MLPERF_STATUS=--mlperf-status
)

# A variable and the option of `bert-large corpus` that it becomes.
CORPUS_OPTIONS=(
  INPUT_DIR=--input-dir
  INPUT_FORMAT=--input-format
  TEXT_LANGUAGE=--language
  SHARDS=--shards
  PHASE1_FRACTION=--phase1-fraction
  EVAL_ARTICLES=--eval-articles
)

# A variable and the option of `bert-large prepare` that it becomes.
PREPARE_OPTIONS=(
  DUPE_FACTOR=--dupe-factor
  RANDOM_SEED=--random-seed
  WORKERS=--workers
)

# The same of `bert-large vocab` and of `bert-large pick`.
VOCAB_OPTIONS=(VOCAB_SIZE=--vocab-size)
PICK_OPTIONS=(EVAL_RECORDS=--count)

# The same of `bert-large finetune`.
FINETUNE_OPTIONS=(
  TASK=--task
  DATASET_DIR=--data-dir
  CHECKPOINT_DIR=--checkpoint-dir
  OUTPUT_DIR=--output-dir
  VOCAB_FILE=--vocab-file
  PRECISION=--precision
  EPOCHS=--epochs
  BATCH_SIZE=--batch-size
  LEARNING_RATE=--learning-rate
  WARMUP_SHARE=--warmup-share
  WEIGHT_DECAY=--weight-decay
  MAX_SEQ_LENGTH=--max-seq-length
  MAX_TRAIN_SAMPLES=--max-train-samples
  MAX_EVAL_SAMPLES=--max-eval-samples
  SEED=--seed
  SEEDS=--seeds
  SAVE_EVERY=--save-every
  RESUME=--resume
)

# Variables that are no option of a command but say how it runs.
LAUNCH_VARIABLES=(BENCHMARK DYNAMIC_MASKING MASKED_LM_ONLY TRAIN_SCRIPT MODEL_DIR DDP RANKS_PER_NODE NNODES HOSTFILE
  NODE_RANK MASTER_ADDR MASTER_PORT
  MAX_RESTARTS BIND GLOO_SOCKET_IFNAME OMP_NUM_THREADS OMP_PLACES OMP_PROC_BIND GOMP_CPU_AFFINITY KMP_AFFINITY
  KMP_BLOCKTIME CCL_WORKER_COUNT CCL_WORKER_AFFINITY ALLOCATOR OPENMP)

# What CONFIG_FILE may be in place of a path: the names of bert_large/config/presets.py.
CONFIGURATIONS=(bert-large bert-base bert-medium bert-small bert-mini bert-tiny distilbert-base)

PROXY_VARIABLES=(http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY)

# An older or later name of a variable, and the name used here. The name used here wins when both are set.
VARIABLE_ALIASES=(BERT_MODEL_CONFIG=CONFIG_FILE PRETRAINED_MODEL=CHECKPOINT_DIR batch_size=BATCH_SIZE)

die() {
  local message="$*"
  printf '%s: error: %s\n' "$PROGRAM" "${message//[[:cntrl:]]/?}" >&2 # one line, whatever a variable holds
  exit 2
}

# Print the scripts that run.sh can start, one a line. The demo is not among them: `make demo` runs it.
quickstart_scripts() {
  local path
  for path in "$QUICKSTART_DIR"/*.sh; do
    [[ "${path##*/}" == @(common|demo).sh ]] || printf '%s\n' "${path##*/}"
  done
}

# describe_script SCRIPT: set REQUIRED_VARIABLES, INPUT_VARIABLES (paths that must exist) and OUTPUT_VARIABLES
# (directories that are made).
describe_script() {
  REQUIRED_VARIABLES=() INPUT_VARIABLES=() OUTPUT_VARIABLES=()
  case "$1" in
    run_bert_pretrain_phase[12].sh)
      REQUIRED_VARIABLES=(PRECISION OUTPUT_DIR)
      [[ -n "${TEXT_DIR:-}" ]] || REQUIRED_VARIABLES+=(DATASET_DIR)
      INPUT_VARIABLES=(DATASET_DIR TEXT_DIR EVAL_DIR CONFIG_FILE CHECKPOINT_DIR RESUME VOCAB_FILE TRAIN_SCRIPT MODEL_DIR
        HOSTFILE)
      OUTPUT_VARIABLES=(OUTPUT_DIR)
      ;;&
    run_bert_pretrain_phase1.sh) REQUIRED_VARIABLES+=(CONFIG_FILE) ;;
    run_bert_pretrain_phase2.sh) REQUIRED_VARIABLES+=(CHECKPOINT_DIR) ;;
    run_finetune.sh)
      REQUIRED_VARIABLES=(TASK CHECKPOINT_DIR OUTPUT_DIR)
      INPUT_VARIABLES=(DATASET_DIR CHECKPOINT_DIR VOCAB_FILE MODEL_DIR)
      OUTPUT_VARIABLES=(OUTPUT_DIR)
      [[ -n "${DATASET_DIR:-}" ]] || OUTPUT_VARIABLES+=(HF_HOME) # where what comes from the hub is kept
      ;;
    prepare_dataset.sh)
      REQUIRED_VARIABLES=(INPUT_DIR DATASET_DIR)
      INPUT_VARIABLES=(INPUT_DIR VOCAB_FILE MODEL_DIR)
      OUTPUT_VARIABLES=(DATASET_DIR)
      ;;
  esac
}

apply_aliases() {
  local alias name
  for alias in "${VARIABLE_ALIASES[@]}"; do
    name="${alias#*=}" alias="${alias%%=*}"
    if [[ -n "${!alias:-}" && -z "${!name:-}" ]]; then
      export "$name=${!alias}"
    fi
  done
}

# check_variables SCRIPT: stop with exit code 2 and one line on the first missing or wrong variable of SCRIPT; make
# its output directories once everything is right.
check_variables() {
  local name missing=()
  describe_script "$1"
  apply_aliases
  for name in "${REQUIRED_VARIABLES[@]}"; do
    [[ -n "${!name:-}" ]] || missing+=("$name")
  done
  ((${#missing[@]} == 0)) || die "$1 needs ${missing[*]}: not set (the head of quickstart/$1 says what each is)"
  [[ "$1" == prepare_dataset.sh || -z "${TEXT_DIR:-}" || -z "${DATASET_DIR:-}" ]] ||
    die "DATASET_DIR and TEXT_DIR are both set: give records, or text to make them of"
  check_launch
  for name in "${INPUT_VARIABLES[@]}" "${OUTPUT_VARIABLES[@]}"; do
    if [[ "${!name:-}" == -* ]]; then
      export "$name=./${!name}" # else it would be read as an option
    fi
  done
  for name in "${INPUT_VARIABLES[@]}"; do
    check_input "$name"
  done
  for name in "${OUTPUT_VARIABLES[@]}"; do
    [[ -z "${!name:-}" ]] || make_output "$name"
  done
}

check_launch() {
  local name
  case "${PRECISION:-fp32}" in
    fp32 | avx-fp32 | bf16 | bf32 | fp16) ;;
    *) die "PRECISION=$PRECISION is unknown: choose fp32, avx-fp32, bf16, bf32 or fp16" ;;
  esac
  case "${ALLOCATOR:-auto}" in
    auto | system | tcmalloc | jemalloc) ;;
    *) die "ALLOCATOR=$ALLOCATOR is unknown: choose auto, system, tcmalloc or jemalloc" ;;
  esac
  for name in BENCHMARK:0:1 DYNAMIC_MASKING:0:1 MASKED_LM_ONLY:0:1 DDP:false:true OPENMP:pytorch:intel; do
    IFS=: read -r name off on <<<"$name"
    [[ "${!name:-$off}" == "$off" || "${!name}" == "$on" ]] || die "$name=${!name} is unknown: choose $on or $off"
  done
  for name in RANKS_PER_NODE NNODES; do # the other variables of several ranks are checked by the launcher
    [[ "${!name:-1}" =~ ^[1-9][0-9]*$ ]] || die "$name=${!name} is not a whole number above 0"
  done
}

# Whether a variable is set and its value is a path: some of them also take words.
holds_path() {
  case "$1=${!1:-}" in
    "$1=" | EVAL_DIR=none | RESUME=auto | RESUME=never) return 1 ;;
    CONFIG_FILE=*) [[ " ${CONFIGURATIONS[*]} " != *" $CONFIG_FILE "* ]] ;;
  esac
}

check_input() {
  local name="$1" path="${!1:-}"
  holds_path "$name" || return 0
  case "$name" in
    RESUME) [[ -e "$path" ]] || die "$name=$path is neither auto nor never, and no such checkpoint exists" ;;
    MODEL_DIR)
      [[ -d "$path/models/bert_large" ]] || die "$name=$path has no models/bert_large in it"
      [[ "$path" != *:* ]] || die "$name=$path has a colon in it, which separates paths in PYTHONPATH: rename it"
      ;;
    *_DIR) [[ -d "$path" ]] || die "$name=$path is not a directory" ;;
    CONFIG_FILE) [[ -f "$path" ]] || die "$name=$path is not a file, nor one of ${CONFIGURATIONS[*]}" ;;
    *) [[ -f "$path" ]] || die "$name=$path is not a file" ;;
  esac
  [[ -r "$path" ]] || die "$name=$path is not readable for uid $(id -u)"
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
# it find the package where MODEL_DIR has it.
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

# append_options OPTION_LIST_NAME: append to ARGUMENTS the options whose variables are set.
append_options() {
  local -n options="$1"
  local entry name
  for entry in "${options[@]}"; do
    name="${entry%%=*}"
    case "${!name:-}" in
      "") ;;
      -*) ARGUMENTS+=("${entry#*=}=${!name}") ;; # as a word of its own it would be read as an option
      *) ARGUMENTS+=("${entry#*=}" "${!name}") ;;
    esac
  done
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

# Let oneDNN use what the precision asks for: AMX where there is AMX, or, for avx-fp32, what it chooses itself.
set_instruction_set() {
  case "${PRECISION:-fp32}" in
    avx-fp32) unset DNNL_MAX_CPU_ISA ;;
    fp16) export DNNL_MAX_CPU_ISA=AVX512_CORE_AMX_FP16 ;;
    *) export DNNL_MAX_CPU_ISA=AVX512_CORE_AMX ;;
  esac
}

# find_allocator NAME: print where the system has the library of tcmalloc or jemalloc, fail where it has none.
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

# Preload the memory allocator that ALLOCATOR names. Settings of the user's own are kept.
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
    jemalloc) # freed memory is kept: as in Intel's package
      local keep=dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000
      export MALLOC_CONF="${MALLOC_CONF:-oversize_threshold:1,background_thread:true,metadata_thp:auto,$keep}"
      ;;
    system) # huge pages; versions of the C library before 2.35 do not know the word and pass over it
      [[ "${GLIBC_TUNABLES:-}" == *glibc.malloc.hugetlb=* ]] ||
        export GLIBC_TUNABLES="${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.hugetlb=1"
      ;;
  esac
  [[ -z "$library" ]] || export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
}

# Preload Intel's OpenMP where OPENMP=intel asks for it. Loaded first, it answers all calls, PyTorch's and the kernels',
# so that no second pool of threads comes up beside it.
choose_openmp() {
  local library
  [[ "${OPENMP:-}" == intel ]] || return 0
  library="$("$PYTHON" -c 'import sys; print(sys.prefix)')/lib/libiomp5.so"
  [[ -f "$library" ]] ||
    die "OPENMP=intel, but $library is not there: install the Python package intel-openmp, or choose pytorch"
  export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
}

# run_pretrain PHASE [OPTION ...]: check the variables and become the trainer, so that signals and the exit code are
# the trainer's. How many ranks it is, and where each computes, is the launcher's to say.
run_pretrain() {
  local phase="$1" entry=(-m bert_large)
  shift
  check_variables "run_bert_pretrain_phase$phase.sh"
  choose_allocator
  choose_python
  set_instruction_set
  choose_openmp
  if [[ -n "${TRAIN_SCRIPT:-}" ]]; then
    entry=("$TRAIN_SCRIPT")
  fi
  ARGUMENTS=(pretrain --phase "$phase")
  append_options PRETRAIN_OPTIONS
  if [[ "${BENCHMARK:-0}" == 1 ]]; then
    ARGUMENTS+=(--benchmark)
  fi
  if [[ "${DYNAMIC_MASKING:-0}" == 1 ]]; then
    ARGUMENTS+=(--dynamic-masking)
  fi
  if [[ "${MASKED_LM_ONLY:-0}" == 1 ]]; then
    ARGUMENTS+=(--masked-lm-only)
  fi
  exec "$PYTHON" -m bert_large.distributed.launch "${entry[@]}" "${ARGUMENTS[@]}" "$@"
}
