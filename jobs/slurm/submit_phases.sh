#!/usr/bin/env bash
# Submit both phases to Slurm: phase 2 starts when phase 1 has succeeded, and leaves the queue if phase 1 fails.
#
# Usage, in the project's folder: VARIABLE=value ... jobs/slurm/submit_phases.sh [OPTION OF sbatch ...]
#
# Required variables: those of phase 1 (run_bert_pretrain_phase1.sh --help). The phases write to OUTPUT_DIR/phase1 and
# OUTPUT_DIR/phase2. PHASE1_NAME=value and PHASE2_NAME=value set the variable NAME for one phase only. Prints the numbers of
# both jobs.
set -euo pipefail

: "${OUTPUT_DIR:?is needed: the folder for phase1/ and phase2/}"
job="$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/pretrain.sh"

# submit PHASE OPTION ...: submit a phase with its own variables, and print the number of the job.
submit() (
  phase="$1"
  shift
  for name in $(compgen -e "PHASE${phase}_" || true); do
    export "${name#PHASE"${phase}"_}=${!name}"
  done
  export SCRIPT="run_bert_pretrain_phase$phase.sh"
  sbatch --parsable --job-name "bert-phase$phase" "$@" "$job"
)

root="$OUTPUT_DIR"
phase1="$(OUTPUT_DIR="$root/phase1" submit 1 "$@")"
phase2="$(OUTPUT_DIR="$root/phase2" CHECKPOINT_DIR="$root/phase1/model_save" \
  submit 2 "$@" --dependency "afterok:${phase1%%;*}" --kill-on-invalid-dep yes)"
echo "$phase1 $phase2"
