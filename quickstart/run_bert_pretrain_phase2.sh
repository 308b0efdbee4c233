#!/usr/bin/env bash
# Phase 2 of BERT pretraining: sequences of 512 tokens, from the model of phase 1. Leaves the model in
# OUTPUT_DIR/model_save.
#
# Usage: VARIABLE=value ... quickstart/run_bert_pretrain_phase2.sh [OPTION OF bert-large pretrain ...]
#
# Required variables: PRECISION, OUTPUT_DIR (not that of phase 1), CHECKPOINT_DIR (model_save of phase 1), and DATASET_DIR
# or TEXT_DIR. --help lists the optional ones.
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"
run_pretrain 2 "$@"
