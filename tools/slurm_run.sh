#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh share: runs SCRIPT with srun.
#
#   slurm_run.sh SCRIPT PARTITION JOB_NAME ARGS...
#
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (8) and SRUN_ARGS come from the
# environment, as OpenMMLab users know them. GPUS_PER_NODE=0 runs GPUS CPU processes.
set -euo pipefail

script=$1 partition=$2 job_name=$3
shift 3
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
placement=()
if [ "$per_node" -gt 0 ]; then
  placement=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
fi
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
# SRUN_ARGS is a list of options, so it is split on purpose.
# shellcheck disable=SC2086
exec srun -p "$partition" --job-name="$job_name" --ntasks="$gpus" "${placement[@]}" \
  --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$tools/$script" "$@" --launcher slurm
