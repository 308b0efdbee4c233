#!/usr/bin/env bash
# Phase 2 of BERT pretraining: sequences of 512 tokens, from the model of phase 1. Leaves the model in
# OUTPUT_DIR/model_save.
#
# Usage: VARIABLE=value ... quickstart/run_bert_pretrain_phase2.sh [OPTION OF bert-large pretrain ...]
#
# Required variables:
#   PRECISION           fp32, avx-fp32 (fp32 with DNNL_MAX_CPU_ISA unset), bf16, bf32 or fp16
#   OUTPUT_DIR          where logs, checkpoints and model_save/ go; made if missing. Not the one of phase 1
#   DATASET_DIR         folder that holds seq_512/ with the shards, or the folder of shards itself
#   or TEXT_DIR         phase 1's folder of text, of which OUTPUT_DIR/records is made first, with phase 1's vocabulary
#   CHECKPOINT_DIR      model_save of phase 1 (also: PRETRAINED_MODEL)
#
# Optional variables: those of run_bert_pretrain_phase1.sh, where each is explained.
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
run_pretrain 2 "$@"
