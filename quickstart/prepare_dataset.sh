#!/usr/bin/env bash
# From a folder of text to the DATASET_DIR of both phases: seq_128/ (20 predictions a sequence), seq_512/ (76), eval/
# (held-out articles, 512 tokens) and vocab.txt. The sentences they are made of stay in corpus/.
#
# Usage: VARIABLE=value ... quickstart/prepare_dataset.sh [OPTION OF bert-large prepare ...]
# Started again, it goes on where it was stopped.
#
# Required variables:
#   INPUT_DIR           text: WikiExtractor's output, an article a line, or sentences or paragraphs a line with blank
#                       lines between articles; folders inside are read
#   DATASET_DIR         where everything goes; made if missing
#
# Optional variables (defaults are those of `bert-large corpus`, `vocab` and `prepare`):
#   VOCAB_FILE          word pieces, vocab.txt (default: trained from the text, lowered; with the option
#                       --no-do-lower-case, cased)
#   VOCAB_SIZE          word pieces to train
#   INPUT_FORMAT        sentences, paragraphs, articles, wikiextractor or json (default: detected for each file)
#   TEXT_LANGUAGE       whose rules end a sentence, ISO 639
#   SHARDS              files of text, and so of records, for both phases
#   PHASE1_FRACTION     share of the text for phase 1, the rest is for phase 2; 1: both phases train on all of it
#   EVAL_ARTICLES       articles to hold out
#   EVAL_RECORDS        records to pick from those of the held-out articles, evenly (default 10000)
#   DUPE_FACTOR         how often each article is used, masked anew each time
#   RANDOM_SEED         seed of pairs and masks
#   WORKERS             processes
#   MODEL_DIR           project whose models/bert_large to run (default: this one)
#   PYTHON              interpreter (default: .venv/bin/python of this project, else python3)
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
check_variables prepare_dataset.sh
choose_python

bert_large() {
  run_to_end "$PYTHON" -m bert_large "$@"
}

CORPUS_DIR="$DATASET_DIR/corpus"
CORPUS_FLAGS=() VOCAB_FLAGS=() # those of prepare's flags that the other commands must follow
for argument in "$@"; do
  case "$argument" in
    --overwrite) CORPUS_FLAGS+=("$argument") VOCAB_FLAGS+=("$argument") ;;
    --do-lower-case | --no-do-lower-case | --strip-accents | --no-strip-accents) VOCAB_FLAGS+=("$argument") ;;
  esac
done

ARGUMENTS=()
append_options CORPUS_OPTIONS
bert_large corpus "${ARGUMENTS[@]}" --output-dir "$CORPUS_DIR" "${CORPUS_FLAGS[@]}"
TEXT_DIRS=("$CORPUS_DIR/phase1" "$CORPUS_DIR/phase2")
if [[ -d "$CORPUS_DIR/both" ]]; then
  TEXT_DIRS=("$CORPUS_DIR/both" "$CORPUS_DIR/both")
fi

VOCABULARY="${VOCAB_FILE:-$DATASET_DIR/vocab.txt}"
if [[ ! -f "$VOCABULARY" || (-z "${VOCAB_FILE:-}" && " $* " == *" --overwrite "*) ]]; then
  ARGUMENTS=()
  append_options VOCAB_OPTIONS
  bert_large vocab --input-dir "${TEXT_DIRS[0]}" --output-file "$VOCABULARY" "${ARGUMENTS[@]}" "${VOCAB_FLAGS[@]}"
fi

ARGUMENTS=(--vocab-file "$VOCABULARY")
append_options PREPARE_OPTIONS
SHORT=(--max-seq-length 128 --max-predictions-per-seq 20) LONG=(--max-seq-length 512 --max-predictions-per-seq 76)
bert_large prepare --input-dir "${TEXT_DIRS[0]}" --output-dir "$DATASET_DIR/seq_128" "${ARGUMENTS[@]}" \
  "${SHORT[@]}" --output-suffix _128 "$@"
bert_large prepare --input-dir "${TEXT_DIRS[1]}" --output-dir "$DATASET_DIR/seq_512" "${ARGUMENTS[@]}" "${LONG[@]}" "$@"
if [[ -d "$CORPUS_DIR/eval" ]]; then
  bert_large prepare --input-dir "$CORPUS_DIR/eval" --output-dir "$DATASET_DIR/eval_all" "${ARGUMENTS[@]}" \
    "${LONG[@]}" "$@"
  ARGUMENTS=()
  append_options PICK_OPTIONS
  bert_large pick --input-dir "$DATASET_DIR/eval_all" --output-file "$DATASET_DIR/eval/eval_records" \
    --allow-fewer --overwrite "${ARGUMENTS[@]}"
fi
[[ "$VOCABULARY" -ef "$DATASET_DIR/vocab.txt" ]] || cp -- "$VOCABULARY" "$DATASET_DIR/vocab.txt"
