#!/usr/bin/env bash
# Fine-tune a model on a labeled task, once per seed, and evaluate it. Leaves the metrics in OUTPUT_DIR/results.json, the
# best seed's model in OUTPUT_DIR/model_save and the predictions for test files in OUTPUT_DIR/predictions.
#
# Usage: VARIABLE=value ... quickstart/run_finetune.sh [OPTION OF bert-large finetune ...]
# Started again, it continues where it was stopped. It needs the package's extra [finetune]; in a container, an image
# made by FINETUNE=1 ./build.sh.
#
# Required variables: TASK, CHECKPOINT_DIR and OUTPUT_DIR. --help lists the optional ones.
set -euo pipefail

# shellcheck source=common.sh
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"
show_help FINETUNE "$@"
prepare_process run_finetune.sh
exec "$PYTHON" -m bert_large finetune --from-environment "$@"
