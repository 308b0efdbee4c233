#!/usr/bin/env bash
# Make the DATASET_DIR of both phases from a folder of text: seq_128/ (20 predictions per sequence), seq_512/ (76), eval/
# (held-out articles, 512 tokens) and vocab.txt. Their sentences stay in corpus/.
#
# Usage: VARIABLE=value ... quickstart/prepare_dataset.sh [OPTION OF bert-large prepare ...]
# Started again, it continues where it was stopped.
#
# Required variables: INPUT_DIR and DATASET_DIR. --help lists the optional ones.
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"
show_help PREPARE "$@"
check_variables prepare_dataset.sh
choose_python

# bert_large COMMAND [OPTION ...]: options win over variables, such as INPUT_DIR, which only `corpus` takes from there.
bert_large() {
  local command="$1"
  shift
  run_to_end "$PYTHON" -m bert_large "$command" --from-environment "$@"
}

CORPUS_DIR="$DATASET_DIR/corpus"
CORPUS_FLAGS=() VOCAB_FLAGS=() # flags of `prepare` that the other commands must get too
for argument in "$@"; do
  case "$argument" in
    --overwrite) CORPUS_FLAGS+=("$argument") VOCAB_FLAGS+=("$argument") ;;
    --do-lower-case | --no-do-lower-case | --strip-accents | --no-strip-accents) VOCAB_FLAGS+=("$argument") ;;
  esac
done

VOCABULARY="${VOCAB_FILE:-$DATASET_DIR/vocab.txt}" TRAINS_VOCABULARY=""
SIZE_FILE="$DATASET_DIR/.vocab_size" # VOCAB_SIZE of a vocabulary trained here, which may have fewer tokens
if [[ -z "${VOCAB_FILE:-}" && (! -f "$VOCABULARY" || " $* " == *" --overwrite "*) ]]; then
  TRAINS_VOCABULARY=yes
elif [[ -z "${VOCAB_FILE:-}" ]]; then
  EARLIER_SIZE="$([[ ! -f "$SIZE_FILE" ]] || cat -- "$SIZE_FILE")"
  [[ "$EARLIER_SIZE" == "${VOCAB_SIZE:-}" ]] ||
    die "$VOCABULARY was made with VOCAB_SIZE=${EARLIER_SIZE:-(not set)}, now ${VOCAB_SIZE:-(not set)}: set it as" \
      "before, give --overwrite to make all files again, or choose another DATASET_DIR"
fi

bert_large corpus --output-dir "$CORPUS_DIR" "${CORPUS_FLAGS[@]}"
TEXT_DIRS=("$CORPUS_DIR/phase1" "$CORPUS_DIR/phase2")
if [[ -d "$CORPUS_DIR/both" ]]; then
  TEXT_DIRS=("$CORPUS_DIR/both" "$CORPUS_DIR/both")
fi

if [[ -n "$TRAINS_VOCABULARY" ]]; then
  bert_large vocab --input-dir "${TEXT_DIRS[0]}" --output-file "$VOCABULARY" "${VOCAB_FLAGS[@]}"
  printf '%s\n' "${VOCAB_SIZE:-}" >"$SIZE_FILE"
fi

SHORT=(--vocab-file "$VOCABULARY" --max-seq-length 128 --max-predictions-per-seq 20)
LONG=(--vocab-file "$VOCABULARY" --max-seq-length 512 --max-predictions-per-seq 76)
bert_large prepare --input-dir "${TEXT_DIRS[0]}" --output-dir "$DATASET_DIR/seq_128" "${SHORT[@]}" \
  --output-suffix _128 "$@"
bert_large prepare --input-dir "${TEXT_DIRS[1]}" --output-dir "$DATASET_DIR/seq_512" "${LONG[@]}" "$@"
if [[ -d "$CORPUS_DIR/eval" ]]; then
  bert_large prepare --input-dir "$CORPUS_DIR/eval" --output-dir "$DATASET_DIR/eval_all" "${LONG[@]}" "$@"
  bert_large pick --input-dir "$DATASET_DIR/eval_all" --output-file "$DATASET_DIR/eval/eval_records" \
    --allow-fewer --overwrite
fi
if ! [[ "$VOCABULARY" -ef "$DATASET_DIR/vocab.txt" ]]; then
  cp -- "$VOCABULARY" "$DATASET_DIR/vocab.txt"
  rm -f -- "$SIZE_FILE"
fi
