#!/usr/bin/env bash
# A Slurm job that pretrains one phase on one or more nodes. When its time runs out or it is pre-empted, it returns to the
# queue and later resumes from its last checkpoint.
#
# Usage, in the project's folder: VARIABLE=value ... sbatch [OPTION OF sbatch ...] jobs/slurm/pretrain.sh \
#   [OPTION OF bert-large pretrain ...]
#
# The variables are those of run.sh, which each node runs, and SRUN_ARGS, more options of srun, such as those of pyxis. Set
# here: NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT.
#SBATCH --job-name=bert-pretrain
#SBATCH --output=bert-pretrain-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=1-00:00:00
#SBATCH --requeue
# Early enough for a step and a checkpoint. Slurm sends the signal to the trainers, not to this shell.
#SBATCH --signal=TERM@600
set -euo pipefail

cd "$SLURM_SUBMIT_DIR" # Slurm runs a copy of this script from elsewhere
[[ -x run.sh ]] || {
  echo "pretrain.sh: error: $PWD has no run.sh: submit this job from the project's folder" >&2
  exit 2
}

export NNODES="$SLURM_JOB_NUM_NODES"
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR="${hosts[0]}"
export MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) # below the kernel's range of ephemeral ports

# scancel and scontrol requeue signal this shell too; then the job must not be put back into the queue here.
ending=""
trap 'ending=yes' TERM

read -r -a srun_options <<<"${SRUN_ARGS:-}"

# A step does not get all CPUs of the job by default; the launcher binds ranks to cores. When one node has ended, the
# others have ten minutes to detect it and to save a checkpoint.
# shellcheck disable=SC2016  # each node expands it
srun --cpus-per-task "$SLURM_CPUS_ON_NODE" --cpu-bind none --wait 600 "${srun_options[@]}" \
  bash -c 'NODE_RANK=$SLURM_NODEID exec ./run.sh "$@"' bash "$@" &
code=0
wait "$!" || code=$?
[[ -z "$ending" ]] || wait "$!" || code=$? # the signal interrupted the wait

if ((code == 143)) && [[ -z "$ending" ]]; then
  echo "pretrain.sh: stopped by SIGTERM: requeued, the run will resume from its last checkpoint"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
