#!/usr/bin/env bash
# Evaluates CHECKPOINT with srun; GPUS, GPUS_PER_NODE, ...: see slurm_run.sh.
if [ $# -lt 4 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [OPTIONS of tools/test.py...]" >&2
  exit 2
fi
exec "$(dirname "$0")/slurm_run.sh" test.py "$@"
