#!/usr/bin/env bash
# A run on a SLURM cluster, one process for each GPU:
#
#     sbatch --nodes=4 experiments/launch/slurm.sh wmt14-en-de-base [--flags of train]
#
# The run directory and the prepared data have to be on a file system that all nodes see. A minute before the time
# limit, or when it is preempted, the run saves a checkpoint and exits with code 143, and the job requeues itself.
#SBATCH --job-name=transformer
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

# SLURM runs a copy of this file from another folder: the repository is where sbatch was called.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/../..}" || exit 1
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" -m experiments train "$@"
code=$?
if [ "$code" -eq 143 ]; then
    echo "preempted: job $SLURM_JOB_ID is requeued"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
