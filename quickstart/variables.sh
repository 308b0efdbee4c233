# shellcheck shell=bash
# The variables of the scripts, generated from the package's settings by: .venv/bin/python .ci/settings.py
# shellcheck disable=SC2034  # used by the scripts that source this file

PRETRAIN_VARIABLES=(
  RECIPE MLFLOW OUTPUT_DIR PRECISION ENGINE BATCH_SIZE MICRO_BATCH_TOKENS MAX_STEPS MAX_HOURS START_BATCH_SIZE
  BATCH_RAMP_STEPS MAX_SAMPLES TARGET_ACCURACY EVAL_EVERY_SAMPLES EVAL_SAMPLES EVAL_AT_START SAVE_EVERY
  KEEP_CHECKPOINTS MAX_BAD_STEPS DETECT_DIVERGENCE STOP_DEADLINE SEED BENCHMARK PROFILE_STEPS RESUME CONFIG_FILE
  CHECKPOINT_DIR VOCAB_FILE EXTEND_VOCAB DO_LOWER_CASE STRIP_ACCENTS MASKED_LM_ONLY GELU DATASET_DIR TEXT_DIR EVAL_DIR
  MAX_SEQ_LENGTH NO_SHUFFLE SEQUENCES SHUFFLE_WINDOW INDEX_DIR DYNAMIC_MASKING MASKING_RATE MASKING_UNIT DATA_WORKERS
  BAD_RECORDS MAX_BAD_RECORDS OPTIMIZER LEARNING_RATE BETA_1 BETA_2 EPSILON WEIGHT_DECAY MAX_GRADIENT_NORM TOTAL_STEPS
  SCHEDULE WARMUP_STEPS WARMUP_FRACTION START_WARMUP_STEP DECAY_POWER DECAY_FRACTION BUCKET_MB GRADIENT_COMPRESSION
  ZERO1 BACKEND RANK_SILENCE RANK_TIMEOUT MLPERF_LOG MLPERF_SUBMITTER MLPERF_PLATFORM MLPERF_DIVISION MLPERF_STATUS
  RANKS_PER_NODE BIND OMP_NUM_THREADS DDP HOSTFILE NNODES NODE_RANK MASTER_ADDR MASTER_PORT GLOO_SOCKET_IFNAME
  MAX_RESTARTS TRAIN_SCRIPT ALLOCATOR OPENMP MODEL_DIR
)
PRETRAIN_INPUTS=(
  RESUME CONFIG_FILE CHECKPOINT_DIR VOCAB_FILE DATASET_DIR TEXT_DIR EVAL_DIR HOSTFILE TRAIN_SCRIPT MODEL_DIR
)
PRETRAIN_OUTPUTS=(
  OUTPUT_DIR INDEX_DIR
)
declare -A PRETRAIN_CHOICES=(
  [MLFLOW]='0 1 false true no yes'
  [EVAL_AT_START]='0 1 false true no yes'
  [BENCHMARK]='0 1 false true no yes'
  [DO_LOWER_CASE]='0 1 false true no yes'
  [STRIP_ACCENTS]='0 1 false true no yes'
  [MASKED_LM_ONLY]='0 1 false true no yes'
  [NO_SHUFFLE]='0 1 false true no yes'
  [DYNAMIC_MASKING]='0 1 false true no yes'
  [ZERO1]='0 1 false true no yes'
  [DDP]='0 1 false true no yes'
  [PRECISION]='fp32 avx-fp32 bf16 bf32 fp16'
  [ENGINE]='auto native eager ipex'
  [GELU]='erf tanh'
  [SEQUENCES]='pairs packed'
  [MASKING_UNIT]='token word span'
  [BAD_RECORDS]='stop skip'
  [OPTIMIZER]='lamb adamw'
  [SCHEDULE]='polynomial linear cosine wsd one-cycle'
  [GRADIENT_COMPRESSION]='none bf16'
  [BACKEND]='ccl mpi gloo'
  [MLPERF_DIVISION]='closed open'
  [MLPERF_STATUS]='onprem cloud research'
  [BIND]='auto none'
  [ALLOCATOR]='auto system tcmalloc jemalloc'
  [OPENMP]='pytorch intel'
)
print_PRETRAIN_help() {
  cat <<'END'
  RECIPE                  named set of hyperparameters, see `bert-large recipes` (default: intel)
  MLFLOW                  also log settings and metrics to MLflow, at MLFLOW_TRACKING_URI; needs the extra mlflow
                          (default: false)
  OUTPUT_DIR              folder for logs, checkpoints/ and model_save/; one per run
  PRECISION               precision of matrix products (default: fp32)
  ENGINE                  native: C++ kernels; eager: plain PyTorch; ipex: Intel Extension for PyTorch; auto: the
                          fastest available (default: auto)
  BATCH_SIZE              sequences per optimizer step, over all ranks (default: that of the recipe)
  MICRO_BATCH_TOKENS      largest number of tokens in one forward and backward pass of a rank; bounds memory, does not
                          change results (default: 2048)
  MAX_STEPS               optimizer steps to train (default: that of the recipe)
  MAX_HOURS               train for this time, interruptions not counted, in place of --max-steps; the schedule has
                          the same length (default: no limit)
  START_BATCH_SIZE        sequences of the first step, from which the batch grows linearly to --global-batch-size
                          (default: --global-batch-size)
  BATCH_RAMP_STEPS        steps over which the batch grows from --start-batch-size (default: 0)
  MAX_SAMPLES             stop after this many sequences
  TARGET_ACCURACY         stop when an evaluation's masked-LM accuracy reaches this
  EVAL_EVERY_SAMPLES      sequences between evaluations; a shorter run has none (default: MLPerf's rule for the global
                          batch size)
  EVAL_SAMPLES            evaluate on this many records, the first ones (default: all)
  EVAL_AT_START           evaluate before the first step too (default: false)
  SAVE_EVERY              steps between checkpoints (default: 100)
  KEEP_CHECKPOINTS        number of checkpoints to keep (default: 2)
  MAX_BAD_STEPS           stop after this many steps in a row whose loss or gradient is not finite; fp16's loss scale
                          stops runs itself (default: 5)
  DETECT_DIVERGENCE       stop when the masked-LM loss, averaged over about 100 steps, exceeds its lowest value by
                          this (default: never)
  STOP_DEADLINE           time after SIGTERM or SIGINT in which the current step must end; a slower one is discarded
                          (default: 60)
  SEED                    seed of weights, sample order, dropout and new masks (default: 42)
  BENCHMARK               measure throughput over 60 steps, or --max-steps if given; saves nothing (default: false)
  PROFILE_STEPS           number of steps to profile (default: 3 with --profile)
  RESUME                  auto: continue from the last intact checkpoint; never: refuse a folder that holds a run; or
                          a checkpoint's folder to start from (default: auto)
  CONFIG_FILE             model configuration: a bert_config.json or config.json, or the name of a model (default:
                          that of --checkpoint-dir)
  CHECKPOINT_DIR          model folder to start from: model_save or a published BERT, which may also be OWNER/NAME of
                          a model of the hub; an empty folder in phase 1 means new weights (default: new weights)
  VOCAB_FILE              vocab.txt to check against the model and to save with it; sets vocab_size of a named model
                          (default: that of --checkpoint-dir; with --text-dir, trained from the text)
  EXTEND_VOCAB            tokens to train on --text-dir and to add to the vocabulary of --checkpoint-dir (default: 0)
  DO_LOWER_CASE           whether the records' text is lowercase; saved with the model, and applied to --text-dir
                          (default: as the vocabulary or tokenizer_config.json beside it says; true where one is
                          trained)
  STRIP_ACCENTS           whether accents are stripped from the records' text (default: as DO_LOWER_CASE if that is
                          set, otherwise found in the same way)
  MASKED_LM_ONLY          train without the next-sentence head, its loss and its metrics; with --text-dir, on packed
                          sequences (default: false)
  GELU                    form of GELU (default: as the configuration says)
  DATASET_DIR             folder with seq_128/ and seq_512/, or folder of shards
  TEXT_DIR                folder of text, as for `bert-large corpus`, of which OUTPUT_DIR/records is made first; some
                          articles are held out for evaluation
  EVAL_DIR                held-out records, or none (default: eval/ in the dataset folder, if it exists)
  MAX_SEQ_LENGTH          token slots of the records (default: 128; phase 2: 512)
  NO_SHUFFLE              train on records in file order (default: false)
  SEQUENCES               what the records hold, and what is made of --text-dir: pairs of segments, or full sequences
                          without pairs (default: as the records are; with --text-dir, pairs, or packed if there is no
                          next-sentence head)
  SHUFFLE_WINDOW          data whose records are shuffled with each other in the first epoch, in whole shards;
                          training starts when the first window is indexed. 0: all data (default: 1)
  INDEX_DIR               folder for the index of the records, which all runs on the same data share (default: beside
                          the data, or else in ~/.cache/bert-large)
  DYNAMIC_MASKING         draw new masks in every epoch instead of using the records' masks; needs the records'
                          vocabulary (default: false)
  MASKING_RATE            share of a sequence's tokens that --dynamic-masking masks (default: 0.15)
  MASKING_UNIT            what --dynamic-masking chooses: single tokens, whole words, or spans of up to ten words
                          (default: token)
  DATA_WORKERS            processes per rank that read and decode records ahead of training; 0: the training process
                          itself (default: 1)
  BAD_RECORDS             what a bad training record does: end the run, or be replaced by the next good record of its
                          shard (default: stop)
  MAX_BAD_RECORDS         largest number of training records to skip (default: 100)
  OPTIMIZER               optimizer (default: lamb)
  LEARNING_RATE           peak learning rate (default: that of the recipe)
  BETA_1                  decay of the first moment (default: 0.9)
  BETA_2                  decay of the second moment (default: 0.999)
  EPSILON                 added to the root of the second moment (default: 1e-06)
  WEIGHT_DECAY            decoupled weight decay (default: 0.01)
  MAX_GRADIENT_NORM       gradients are clipped to this global norm (default: 1)
  TOTAL_STEPS             length of the learning-rate schedule; set it if you will raise --max-steps later (default:
                          --max-steps)
  SCHEDULE                learning-rate schedule: polynomial decay from step 0 as in MLCommons' reference, linear or
                          cosine decay after the warmup, wsd (warmup, stable, decay), or one-cycle (default:
                          polynomial)
  WARMUP_STEPS            length of the warmup; its peak with one-cycle (default: 0)
  WARMUP_FRACTION         length of the warmup as a fraction of the schedule, in place of --warmup-steps (default:
                          that of --warmup-steps; 0.3 with one-cycle)
  START_WARMUP_STEP       step at which the warmup starts; a negative one is before the run (default: 0)
  DECAY_POWER             power of the polynomial decay (default: 1)
  DECAY_FRACTION          fraction of the schedule in which wsd decays (default: 0.2)
  BUCKET_MB               size of the gradient buckets that are reduced together (default: 25)
  GRADIENT_COMPRESSION    type to which gradients are rounded for communication (default: none)
  ZERO1                   shard the optimizer state across ranks (ZeRO-1) (default: false)
  BACKEND                 communication backend of several ranks (default: the faster of ccl and gloo where oneCCL is
                          installed, else gloo)
  RANK_SILENCE            time without a sign of life from a rank after which the others end (default: 20)
  RANK_TIMEOUT            time for which a rank may keep others waiting, alive but without progress (default: 600)
  MLPERF_LOG              file for the run's MLPerf log, such as result_0.txt (default: none)
  MLPERF_SUBMITTER        submission_org of the log (default: unspecified)
  MLPERF_PLATFORM         submission_platform of the log (default: the CPU's name)
  MLPERF_DIVISION         division of the log (default: closed)
  MLPERF_STATUS           status of the log (default: research)
  RANKS_PER_NODE          ranks on this host (default: one per NUMA node that the process may use)
  BIND                    none: do not bind ranks to cores and memory (default: auto)
  OMP_NUM_THREADS         threads per rank (default: the rank's cores, without hyper-threads)
  DDP                     use torchrun even for one process (default: false)
  HOSTFILE                file with one host per line, as `host`, `host slots=2` or `host:2`; the first is the master
                          (default: one host)
  NNODES                  number of hosts, instead of HOSTFILE (default: 1)
  NODE_RANK               number of this host, from 0
  MASTER_ADDR             address of host 0
  MASTER_PORT             free port of host 0 (default: 29500; a random one on a single host)
  GLOO_SOCKET_IFNAME      network interface between the hosts (default: that of the route to the other hosts)
  MAX_RESTARTS            how often all ranks are started again, from the last checkpoint, after one has failed
                          (default: 0)
  TRAIN_SCRIPT            Python program to run instead of bert_large; it gets the same arguments as options (default:
                          none)
  ALLOCATOR               memory allocator; system: the C library's with huge pages; auto: tcmalloc if installed, else
                          system (default: auto)
  OPENMP                  OpenMP runtime; intel: that of the Python package intel-openmp, which the IPEX image has
                          (default: pytorch)
  MODEL_DIR               project whose models/bert_large to run (default: this project)
  PYTHON                  interpreter, outside containers (default: python of .venv, else python3)
END
}

FINETUNE_VARIABLES=(
  TASK DATASET_DIR CHECKPOINT_DIR OUTPUT_DIR VOCAB_FILE DO_LOWER_CASE SEEDS SEED SAVE_EVERY RESUME ENGINE PREDICT_ONLY
  EPOCHS BATCH_SIZE LEARNING_RATE WARMUP_SHARE WEIGHT_DECAY MAX_SEQ_LENGTH PRECISION MAX_TRAIN_SAMPLES
  MAX_EVAL_SAMPLES HF_HOME OMP_NUM_THREADS ALLOCATOR OPENMP MODEL_DIR
)
FINETUNE_INPUTS=(
  DATASET_DIR CHECKPOINT_DIR VOCAB_FILE MODEL_DIR
)
FINETUNE_OUTPUTS=(
  OUTPUT_DIR HF_HOME
)
declare -A FINETUNE_CHOICES=(
  [DO_LOWER_CASE]='0 1 false true no yes'
  [PREDICT_ONLY]='0 1 false true no yes'
  [RESUME]='auto never'
  [ENGINE]='auto native eager'
  [PRECISION]='fp32 avx-fp32 bf16 bf32'
  [ALLOCATOR]='auto system tcmalloc jemalloc'
  [OPENMP]='pytorch intel'
)
print_FINETUNE_help() {
  cat <<'END'
  TASK                    one of cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, squad, squad2, ner,
                          classification
  DATASET_DIR             folder of the task's files, or of GLUE's folders (default: from Hugging Face's hub)
  CHECKPOINT_DIR          model folder to start from, or OWNER/NAME of a model of the hub
  OUTPUT_DIR              folder for everything that the run writes; one per run
  VOCAB_FILE              vocabulary (default: that of the model folder)
  DO_LOWER_CASE           convert text to lowercase and strip accents (default: as the model folder or the vocabulary
                          says)
  SEEDS                   train once with each of these seeds, such as 1,2,3 (default: 42)
  SEED                    train once, with this seed
  SAVE_EVERY              steps between checkpoints (default: 200)
  RESUME                  auto: continue the folder's run; never: refuse a folder that holds a run (default: auto)
  ENGINE                  native: C++ kernels; eager: plain PyTorch; auto: native where it can (default: auto)
  PREDICT_ONLY            only predict, with a fine-tuned model as CHECKPOINT_DIR; no training file is needed
                          (default: false)
  EPOCHS                  passes over the training examples (default: 3)
  BATCH_SIZE              sequences per optimizer step, and per pass when predicting (default: 32)
  LEARNING_RATE           peak learning rate of AdamW; it decays linearly to 0 (default: 2e-05)
  WARMUP_SHARE            share of the steps in which the learning rate rises linearly from 0 (default: 0.1)
  WEIGHT_DECAY            decoupled weight decay, not applied to biases and LayerNorm (default: 0.01)
  MAX_SEQ_LENGTH          largest number of tokens in a sequence; longer ones are truncated (default: 128)
  PRECISION               precision of matrix products; weights are fp32 always (default: fp32)
  MAX_TRAIN_SAMPLES       train on this many examples, the first ones (default: all)
  MAX_EVAL_SAMPLES        evaluate on this many examples of each split, the first ones; test splits are predicted
                          whole (default: all)
  HF_HOME                 without DATASET_DIR: folder that keeps downloads from Hugging Face's hub (default: Hugging
                          Face's; in a container a temporary folder)
  OMP_NUM_THREADS         threads per rank (default: the rank's cores, without hyper-threads)
  ALLOCATOR               memory allocator; system: the C library's with huge pages; auto: tcmalloc if installed, else
                          system (default: auto)
  OPENMP                  OpenMP runtime; intel: that of the Python package intel-openmp, which the IPEX image has
                          (default: pytorch)
  MODEL_DIR               project whose models/bert_large to run (default: this project)
  PYTHON                  interpreter, outside containers (default: python of .venv, else python3)
END
}

PREPARE_VARIABLES=(
  DATASET_DIR INPUT_DIR INPUT_FORMAT TEXT_FIELD TEXT_ENCODING DUPLICATES TEXT_LANGUAGE SHARDS PHASE1_FRACTION
  EVAL_ARTICLES VOCAB_SIZE VOCAB_FILE WORKERS SEQUENCES DUPE_FACTOR RANDOM_SEED EVAL_RECORDS MODEL_DIR
)
PREPARE_INPUTS=(
  INPUT_DIR VOCAB_FILE MODEL_DIR
)
PREPARE_OUTPUTS=(
  DATASET_DIR
)
declare -A PREPARE_CHOICES=(
  [INPUT_FORMAT]='auto sentences paragraphs articles wikiextractor json csv parquet mediawiki'
  [DUPLICATES]='keep exact near'
  [SEQUENCES]='pairs packed'
)
print_PREPARE_help() {
  cat <<'END'
  DATASET_DIR             folder for seq_128/, seq_512/, eval/, vocab.txt and corpus/ (default: required)
  INPUT_DIR               folder of files of text, which may be compressed (gzip, bzip2, xz, Zstandard); folders
                          inside and links are followed, names that start with a dot are left out
  INPUT_FORMAT            sentences: one sentence per line, blank lines between articles (like MLCommons' files);
                          paragraphs: one paragraph per line, blank lines between articles; articles: one article per
                          line; wikiextractor: <doc id=…> … </doc> blocks of WikiExtractor, one paragraph per line;
                          json: one JSON object per line, with the article in the field --text-field (also
                          WikiExtractor --json); csv: a CSV or TSV table, with an article in the column --text-field
                          of each row; parquet: a Parquet table, with an article in the column --text-field of each
                          row; mediawiki: a MediaWiki dump (XML) (default: detected for each file)
  TEXT_FIELD              field of JSON objects or column of tables that holds the text; a number is a column of a CSV
                          or TSV file whose first row has no names (default: text)
  TEXT_ENCODING           encoding of all text files, such as utf-16-le or cp1252 (default: detected for each file)
  DUPLICATES              keep: remove no articles; exact: remove copies of earlier articles; near: also remove near-
                          duplicates, which share most of their word 5-grams (MinHash) (default: exact)
  TEXT_LANGUAGE           language whose rules split sentences, as an ISO 639 code; English if unknown (default: en)
  SHARDS                  text files to make for both phases (default: one per 32 MiB of text)
  PHASE1_FRACTION         share of the text for phase 1, the rest is for phase 2; with 1, both phases train on all of
                          it (default: 0.9)
  EVAL_ARTICLES           articles to hold out, chosen by a hash of their text; 0, or at least 2 (default: one in 50,
                          at most 10000)
  VOCAB_SIZE              largest number of tokens (default: 30522)
  VOCAB_FILE              vocab.txt, one token per line (default: trained from the text)
  WORKERS                 processes (default: the CPUs that this process may use)
  SEQUENCES               pairs: two segments for the next-sentence task, as in MLCommons' records; packed: full
                          sequences for masked LM only, in which the parts of different documents have separate
                          attention and positions (default: pairs)
  DUPE_FACTOR             passes over the text, each with different pairs and masks (default: 10)
  RANDOM_SEED             seed of pairs and masks; every file starts from it (default: 12345)
  EVAL_RECORDS            number of records to pick (default: 10000)
  MODEL_DIR               project whose models/bert_large to run (default: this project)
  PYTHON                  interpreter, outside containers (default: python of .venv, else python3)
END
}

FOREIGN_VARIABLES=(
  OMP_PLACES OMP_PROC_BIND GOMP_CPU_AFFINITY KMP_AFFINITY KMP_BLOCKTIME CCL_WORKER_COUNT CCL_WORKER_AFFINITY
  MLFLOW_TRACKING_URI MLFLOW_TRACKING_TOKEN MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD MLFLOW_EXPERIMENT_NAME
  MLFLOW_RUN_ID MLFLOW_ALLOW_FILE_STORE
)
PROXY_VARIABLES=(
  http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY
)
CONTAINER_VARIABLES=(
  SCRIPT TRAINING_PHASE RUNTIME CONTAINER_ENGINE IMAGE_NAME SHM_SIZE DOCKER_ARGS
)
print_CONTAINER_help() {
  cat <<'END'
  SCRIPT                  script of quickstart/ to run (default: run_bert_pretrain_phase1.sh)
  TRAINING_PHASE          phase whose script is the default (default: 1)
  RUNTIME                 native: run the script without a container (default: container)
  CONTAINER_ENGINE        docker, podman, apptainer or singularity (default: the first that answers)
  IMAGE_NAME              image to run, or to build (default: model-zoo:pytorch-bert-large-training)
  SHM_SIZE                shared memory of the container (default: 8G)
  DOCKER_ARGS             more arguments for `docker run`, split into words as a shell does, nothing expanded; they
                          come last and win (default: none)
END
}
print_BUILD_help() {
  cat <<'END'
  BASE                    which base image (default: ipex)
  BASE_IMAGE              any other base: an image whose python3 has torch and pip (default: the image of BASE)
  PYTHON_IMAGE            image that the base is built on (default: python:3.11-slim-bookworm)
  TORCH_VERSION           PyTorch of the base (default: that of its Dockerfile)
  IPEX_VERSION            IPEX of the base (default: that of its Dockerfile)
  ONECCL_VERSION          oneCCL bindings of the base (default: that of its Dockerfile)
  TORCH_BUILD             any: take a GPU build, gigabytes larger, where there is no CPU build (default: cpu)
  ONECCL                  whether the IPEX base has the oneCCL bindings (default: auto)
  ONECCL_INDEX_URL        package index that has oneccl_bind_pt (default: none)
  FINETUNE                install the packages of run_finetune.sh, about 600 MB (default: false)
  DOCKER_BUILD_ARGS       more arguments for `docker build` (default: none)
  SOURCE_DATE_EPOCH       creation time in the images' label `created`, in seconds since 1970 (default: no label
                          `created`, so an unchanged image keeps its id)
END
}
BUILD_VARIABLES=(
  BASE BASE_IMAGE PYTHON_IMAGE TORCH_VERSION IPEX_VERSION ONECCL_VERSION TORCH_BUILD ONECCL ONECCL_INDEX_URL FINETUNE
  DOCKER_BUILD_ARGS SOURCE_DATE_EPOCH
)
OTHER_VARIABLES=(
  DEMO_DIR HEALTH_MAX_AGE_SECONDS BERT_LARGE_KERNELS_DIR CXX PYTHON
)
# An older or later name of a variable, and the name used here, which wins when both are set.
VARIABLE_ALIASES=(
  batch_size=BATCH_SIZE BERT_MODEL_CONFIG=CONFIG_FILE PRETRAINED_MODEL=CHECKPOINT_DIR
)
# Values of path variables that are words, not paths.
declare -A PATH_WORDS=(
  [RESUME]='auto never'
  [CONFIG_FILE]='bert-large bert-base bert-medium bert-small bert-mini bert-tiny distilbert-base'
  [EVAL_DIR]=none
)
