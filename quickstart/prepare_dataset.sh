#!/usr/bin/env bash
# Make the shards of both phases from text: DATASET_DIR/seq_128 (20 predictions a sequence) and DATASET_DIR/seq_512
# (76 predictions).
#
# Usage: VARIABLE=value ... quickstart/prepare_dataset.sh [OPTION OF bert-large prepare ...]
#
# Required variables:
#   INPUT_DIR           text files with one sentence a line and a blank line between articles
#   VOCAB_FILE          the word-piece vocabulary, vocab.txt
#   DATASET_DIR         where the shards go; made if missing
#
# Optional variables (defaults are those of `bert-large prepare`):
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
ARGUMENTS=()
append_options PREPARE_OPTIONS
run_to_end "$PYTHON" -m bert_large prepare "${ARGUMENTS[@]}" --output-dir "$DATASET_DIR/seq_128" \
  --max-seq-length 128 --max-predictions-per-seq 20 --output-suffix _128 "$@"
run_to_end "$PYTHON" -m bert_large prepare "${ARGUMENTS[@]}" --output-dir "$DATASET_DIR/seq_512" \
  --max-seq-length 512 --max-predictions-per-seq 76 "$@"
