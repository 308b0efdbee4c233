#!/usr/bin/env bash
# Phase 1 of BERT pretraining: sequences of 128 tokens, from new weights. Leaves the model in OUTPUT_DIR/model_save.
#
# Usage: VARIABLE=value ... quickstart/run_bert_pretrain_phase1.sh [OPTION OF bert-large pretrain ...]
#
# Required variables:
#   PRECISION           fp32, avx-fp32 (fp32 with DNNL_MAX_CPU_ISA unset), bf16, bf32 or fp16
#   OUTPUT_DIR          where logs, checkpoints and model_save/ go; made if missing. Use an empty one for a new run
#   DATASET_DIR         folder that holds seq_128/ with the shards, or the folder of shards itself
#   or TEXT_DIR         folder of text, of which OUTPUT_DIR/records is made first: the same kinds as INPUT_DIR of
#                       prepare_dataset.sh. All of it is trained on but for articles held out to evaluate on
#   CONFIG_FILE         bert_config.json, or the name of a model: bert-large, bert-base, bert-medium, bert-small,
#                       bert-mini, bert-tiny or distilbert-base (also: BERT_MODEL_CONFIG)
#
# Optional variables (defaults are those of `bert-large pretrain` and its recipe):
#   BATCH_SIZE          sequences per optimizer step, over all ranks (also: batch_size)
#   MICRO_BATCH_TOKENS  most tokens in one forward and backward pass of a rank
#   MAX_STEPS           optimizer steps to train
#   TOTAL_STEPS         length of the learning-rate schedule, in steps
#   MAX_SAMPLES         stop after this many sequences
#   TARGET_ACCURACY     stop when an evaluation's masked-LM accuracy reaches this
#   LEARNING_RATE       peak learning rate
#   WARMUP_STEPS        steps of warmup
#   RECIPE              name of a set of hyperparameters
#   ENGINE              auto (native; fp16: eager), native, eager, which needs no C++ compiler, or ipex, where it is installed
#   ALLOCATOR           memory allocator: tcmalloc or jemalloc, which must be installed, or system, the C library's
#                       with huge pages. auto (default): tcmalloc where it is installed, else system
#   OPENMP              threads of PyTorch and the kernels: pytorch (default), those it brought, or intel, which the
#                       Python package intel-openmp has
#   SEED                seed of weights, order, dropout and masks drawn anew
#   EVAL_DIR            held-out TFRecords to evaluate on, or none
#   VOCAB_FILE          vocabulary to save with the model (default with TEXT_DIR: trained from the text, lowered; with
#                       the option --no-do-lower-case, cased); where CONFIG_FILE is a name, its size is the model's
#   DYNAMIC_MASKING     1: draw masks anew in every epoch, in place of the records' own; needs their vocabulary:
#                       VOCAB_FILE, that of CHECKPOINT_DIR, or TEXT_DIR
#   MASKED_LM_ONLY      1: train without the next-sentence loss, for a model without that head
#   CHECKPOINT_DIR      model to start from instead of new weights (also: PRETRAINED_MODEL)
#   SAVE_EVERY          steps between checkpoints
#   BAD_RECORDS         damaged training records: stop (default), or skip, MAX_BAD_RECORDS (100) of them at most
#   STOP_DEADLINE       seconds after SIGTERM or Ctrl-C; a step that would take longer is dropped, not finished
#   RESUME              auto (default): go on from the last intact checkpoint; never: refuse a folder that holds a run;
#                       or the checkpoint to go on from
#   BENCHMARK           1: measure speed only, over 60 steps unless MAX_STEPS is set
#   MLPERF_LOG          write the MLPerf log there; inside OUTPUT_DIR in a container. Needs the package's extra [mlperf]
#   MLPERF_SUBMITTER, MLPERF_PLATFORM, MLPERF_DIVISION, MLPERF_STATUS   what the log says of the submission
#   TRAIN_SCRIPT        another Python program to run in place of `bert_large`; it gets the same arguments
#   MODEL_DIR           project whose models/bert_large to run (default: this one)
#   PYTHON              interpreter (default: .venv/bin/python of this project, else python3)
#
# Several processes (ranks), through torchrun; `bert-large ranks` shows what these variables would start:
#   RANKS_PER_NODE      ranks on this machine (default: one per NUMA node that this process may use)
#   BIND                none: do not keep ranks to their cores and memory (default auto)
#   OMP_NUM_THREADS     threads of a rank (default: its cores, hyper-threads not counted)
#   BACKEND             ccl, mpi or gloo (default: ccl where oneCCL's bindings are installed, else gloo)
#   DDP                 true: use torchrun even for one process
#   MAX_RESTARTS        start all ranks again, from the last checkpoint, up to so often after one has failed (default 0)
#   RANK_SILENCE        seconds without a sign of life after which a rank is given up (default 20)
#   RANK_TIMEOUT        seconds that a live rank may keep others waiting without progress (default 600)
# On several machines, the same command on each, with either of:
#   HOSTFILE            file of hosts, one a line (host, host slots=RANKS, host:RANKS); the first is the master
#   NNODES, NODE_RANK, MASTER_ADDR   how many machines, which this one is, from 0, and the address of number 0
#   MASTER_PORT         a free port of the master (default 29500)
#   GLOO_SOCKET_IFNAME  network interface between the machines (default: the one that leads to the master)
# Variables of OpenMP and oneCCL that are set (OMP_*, KMP_*, GOMP_CPU_AFFINITY, CCL_WORKER_*) are kept.
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
run_pretrain 1 "$@"
