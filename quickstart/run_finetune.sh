#!/usr/bin/env bash
# Fine-tune a model on a labelled task, once a seed, and judge it. Leaves figures in OUTPUT_DIR/results.json, the best
# seed's model in OUTPUT_DIR/model_save and what it predicts of test files in OUTPUT_DIR/predictions.
#
# Usage: VARIABLE=value ... quickstart/run_finetune.sh [OPTION OF bert-large finetune ...]
# Started again, it goes on where it was stopped. It needs the package's extra [finetune]; in a container, an image that
# FINETUNE=1 ./build.sh has made.
#
# Required variables:
#   TASK                cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli (GLUE), squad, squad2, or ner
#   CHECKPOINT_DIR      model_save to start from (also: PRETRAINED_MODEL)
#   OUTPUT_DIR          where everything goes; made if missing. One run, one folder
#
# Optional variables (defaults are those of `bert-large finetune` and its task):
#   DATASET_DIR         the task's files, or GLUE's folders (default: from Hugging Face's hub, by name)
#   HF_HOME             without DATASET_DIR: folder that keeps what comes from the hub (default: Hugging Face's; in a
#                       container it is in memory and gone in the end)
#   VOCAB_FILE          vocabulary (default: the model folder's)
#   PRECISION           fp32 (default), avx-fp32, bf16 or bf32
#   EPOCHS              passes over the training examples
#   BATCH_SIZE          sequences per optimizer step (also: batch_size)
#   LEARNING_RATE       peak learning rate
#   WARMUP_SHARE        share of the steps in which the rate rises
#   WEIGHT_DECAY        decoupled weight decay
#   MAX_SEQ_LENGTH      tokens; longer sequences are cut
#   MAX_TRAIN_SAMPLES, MAX_EVAL_SAMPLES   use the first examples only
#   SEEDS               train once with each: 1,2,3
#   SEED                train once, with this one
#   SAVE_EVERY          steps between checkpoints
#   RESUME              auto (default): go on with the folder's run; never: refuse a folder that holds one
#   ALLOCATOR, OPENMP   as in run_bert_pretrain_phase1.sh
#   OMP_NUM_THREADS     threads (default: all cores)
#   MODEL_DIR           project whose models/bert_large to run (default: this one)
#   PYTHON              interpreter (default: .venv/bin/python of this project, else python3)
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
check_variables run_finetune.sh
choose_allocator
choose_python
set_instruction_set
choose_openmp
ARGUMENTS=(finetune)
append_options FINETUNE_OPTIONS
exec "$PYTHON" -m bert_large "${ARGUMENTS[@]}" "$@"
