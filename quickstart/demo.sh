#!/usr/bin/env bash
# The whole way in a few minutes: English prose that every Python installation has → vocabulary → TFRecords → phase 1
# → phase 2, with a small BERT, by the same commands that train BERT-large. Ends with held-out figures and a report.
#
# Usage: [DEMO_DIR=folder] quickstart/demo.sh
#
# Optional variables:
#   DEMO_DIR   where everything goes (default: output/demo of the project); what an earlier demo left there is removed
#   PYTHON     interpreter (default: .venv/bin/python of this project, else python3)
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
choose_python
export PYTHON
unset_settings # settings that the caller exported for another run must not change the demo
export RANKS_PER_NODE=1 # so small a model gains nothing from more
DEMO_DIR="${DEMO_DIR:-$PROJECT_DIR/output/demo}"
started=$SECONDS

say() {
  printf '\n== %s (%d s)\n' "$*" $((SECONDS - started))
}

# prepare NAME TEXT_DIR TOKENS PREDICTIONS DUPE_FACTOR [OPTION ...]
prepare() {
  local name="$1" text_dir="$2" tokens="$3" predictions="$4" dupe_factor="$5"
  shift 5
  "$PYTHON" -m bert_large prepare --input-dir "$text_dir" --vocab-file "$DEMO_DIR/vocab.txt" \
    --output-dir "$DEMO_DIR/dataset/$name" --max-seq-length "$tokens" --max-predictions-per-seq "$predictions" \
    --dupe-factor "$dupe_factor" --random-seed 12345 "$@"
}

for name in text held_out_text dataset phase1 phase2 vocab.txt bert_config.json curves report.html; do
  rm -rf -- "${DEMO_DIR:?}/$name"
done
mkdir -p -- "$DEMO_DIR"

say "text and vocabulary"
"$PYTHON" "$QUICKSTART_DIR/demo_corpus.py" "$DEMO_DIR/text" "$DEMO_DIR/held_out_text"
"$PYTHON" -m bert_large vocab --input-dir "$DEMO_DIR/text" --output-file "$DEMO_DIR/vocab.txt" --vocab-size 4096
cp -- "$QUICKSTART_DIR/demo_bert_config.json" "$DEMO_DIR/bert_config.json"

say "records: 128 tokens, 512 tokens, and held-out ones"
prepare seq_128 "$DEMO_DIR/text" 128 20 10 --output-suffix _128
prepare seq_512 "$DEMO_DIR/text" 512 76 5
prepare eval "$DEMO_DIR/held_out_text" 128 20 5

export PRECISION=fp32 RECIPE=demo DATASET_DIR="$DEMO_DIR/dataset" VOCAB_FILE="$DEMO_DIR/vocab.txt"
say "phase 1"
OUTPUT_DIR="$DEMO_DIR/phase1" CONFIG_FILE="$DEMO_DIR/bert_config.json" "$QUICKSTART_DIR/run_bert_pretrain_phase1.sh"
say "phase 2"
OUTPUT_DIR="$DEMO_DIR/phase2" CHECKPOINT_DIR="$DEMO_DIR/phase1/model_save" "$QUICKSTART_DIR/run_bert_pretrain_phase2.sh"

say "what was learned"
"$PYTHON" -m bert_large report "$DEMO_DIR/phase1" "$DEMO_DIR/phase2" \
  --output-file "$DEMO_DIR/report.html" --png-dir "$DEMO_DIR/curves" >/dev/null
"$PYTHON" "$QUICKSTART_DIR/demo_report.py" "$DEMO_DIR"
printf 'finished in %d s\n' $((SECONDS - started))
