#!/usr/bin/env bash
# Phase 1 of BERT pretraining: sequences of 128 tokens, from new weights. Leaves the model in OUTPUT_DIR/model_save.
#
# Usage: VARIABLE=value ... quickstart/run_bert_pretrain_phase1.sh [OPTION OF bert-large pretrain ...]
#
# Required variables: PRECISION, OUTPUT_DIR, CONFIG_FILE, and DATASET_DIR or TEXT_DIR. --help lists the optional ones.
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"
run_pretrain 1 "$@"
