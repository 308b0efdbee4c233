#!/usr/bin/env bash
# Train a small BERT in a few minutes with the commands that train BERT-large: text, vocabulary, records, phase 1, phase 2,
# evaluation and report. The text is English prose that every Python installation has; nothing is downloaded.
#
# Usage: [DEMO_DIR=folder] quickstart/demo.sh
#
# Optional variables:
#   DEMO_DIR   output folder (default: output/demo of the project); the files of an earlier demo in it are removed
#   PYTHON     interpreter (default: .venv/bin/python of this project, else python3)
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
choose_python
export PYTHON
unset_settings # settings that the caller exported for another run must not change the demo
export RANKS_PER_NODE=1 # a model of this size gains nothing from more ranks
DEMO_DIR="${DEMO_DIR:-$PROJECT_DIR/output/demo}"

title() {
  printf '\n== %s (%d s)\n' "$*" "$SECONDS"
}

SECONDS=0
mkdir -p -- "$DEMO_DIR"
for name in text dataset phase1 phase2 curves report.html; do
  rm -rf -- "${DEMO_DIR:?}/$name"
done

title "text"
"$PYTHON" "$QUICKSTART_DIR/demo_corpus.py" "$DEMO_DIR/text"

export DATASET_DIR="$DEMO_DIR/dataset"
title "vocabulary and records: 128 tokens, 512 tokens, and held-out articles"
INPUT_DIR="$DEMO_DIR/text" VOCAB_SIZE=4096 SHARDS=4 PHASE1_FRACTION=1 DUPE_FACTOR=5 EVAL_ARTICLES=100 \
  "$QUICKSTART_DIR/prepare_dataset.sh"

export PRECISION=fp32 RECIPE=demo VOCAB_FILE="$DATASET_DIR/vocab.txt"
title "phase 1"
OUTPUT_DIR="$DEMO_DIR/phase1" CONFIG_FILE=bert-tiny \
  "$QUICKSTART_DIR/run_bert_pretrain_phase1.sh"
title "phase 2"
OUTPUT_DIR="$DEMO_DIR/phase2" CHECKPOINT_DIR="$DEMO_DIR/phase1/model_save" \
  "$QUICKSTART_DIR/run_bert_pretrain_phase2.sh"

title "results"
"$PYTHON" -m bert_large report "$DEMO_DIR/phase1" "$DEMO_DIR/phase2" \
  --output-file "$DEMO_DIR/report.html" --png-dir "$DEMO_DIR/curves" >/dev/null
"$PYTHON" "$QUICKSTART_DIR/demo_report.py" "$DEMO_DIR"
printf 'finished in %d s\n' "$SECONDS"
