#!/usr/bin/env bash
# Trains CONFIG with srun; GPUS, GPUS_PER_NODE, ...: see slurm_run.sh.
if [ $# -lt 4 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [OPTIONS of tools/train.py...]" >&2
  exit 2
fi
exec "$(dirname "$0")/slurm_run.sh" train.py "$1" "$2" "$3" --work-dir "$4" "${@:5}"
