#!/usr/bin/env bash
# A run on all hosts of a Cloud TPU slice, from your own machine:
#
#     TPU=my-slice ZONE=us-east5-a experiments/launch/tpu_pod.sh wmt14-en-de-base --workdir /mnt/runs/base [--flags]
#
# Each host needs this repository in ~/transformer, installed with jax[tpu]. JAX finds the other hosts by itself. The run
# directory has to be on a file system that all hosts mount. To resume an interrupted run, repeat the command.
set -euo pipefail

: "${TPU:?the name of the slice, e.g. TPU=my-slice}" "${ZONE:?its zone, e.g. ZONE=us-east5-a}"
[ $# -gt 0 ] || { echo "usage: TPU=NAME ZONE=ZONE $0 EXPERIMENT [--flags]" >&2; exit 2; }
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all \
    --command "cd ~/transformer && .venv/bin/python -m experiments train$(printf ' %q' "$@")"
