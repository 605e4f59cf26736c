#!/usr/bin/env bash
# Trains CONFIG with srun; GPUS, GPUS_PER_NODE, ...: see slurm_run.sh.
#
# The run goes on from the newest good checkpoint in WORK_DIR, if there is one: the same
# command again resumes. NOTICE (120) seconds before its time is up it gets SIGUSR1,
# saves, and ends with exit code 75. With
#   BATCH=1      it is submitted with sbatch instead, as a job that requeues itself then,
#                and that the scheduler may requeue when it preempts it
# and SBATCH_ARGS (such as "--time=24:00:00") reach sbatch.
set -euo pipefail

if [ $# -lt 4 ]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [OPTIONS of tools/train.py...]" >&2
  exit 2
fi
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
notice="--signal=USR1@${NOTICE:-120}"
resume=(--resume auto)
for option in "${@:5}"; do
  if [[ $option == --resume* ]]; then
    resume=()
  fi
done
run=("$tools/slurm_run.sh" train.py "$1" "$2" "$3" --work-dir "$4" "${resume[@]}" "${@:5}")

if [ -z "${BATCH:-}" ]; then
  export SRUN_ARGS="$notice ${SRUN_ARGS:-}"
  exec "${run[@]}"
fi

if [ -z "${SLURM_JOB_ID:-}" ]; then
  gpus=${GPUS:-8}
  per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
  placement=()
  if [ "$per_node" -gt 0 ]; then
    placement=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
  fi
  mkdir -p "$4"
  printf -v command '%q ' "$tools/slurm_train.sh" "$@"
  # SBATCH_ARGS is a list of options, so it is split on purpose.
  # shellcheck disable=SC2086
  exec sbatch -p "$1" --job-name="$2" --ntasks="$gpus" "${placement[@]}" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" --requeue --open-mode=append \
    --signal="B:${notice#*=}" --output="$4/slurm-%j.out" ${SBATCH_ARGS:-} \
    --wrap "exec $command"
fi

# In the job: the batch shell is told, and tells the processes. srun need not end with
# their code, as it kills the others when the first of them ends.
noticed=
"${run[@]}" &
srun=$!
trap 'noticed=1; kill -USR1 "$srun"' USR1 TERM
status=0
wait "$srun" || status=$?
while kill -0 "$srun" 2>/dev/null; do # a signal ended the wait
  status=0
  wait "$srun" || status=$?
done
if [ "$status" -eq 75 ] || { [ -n "$noticed" ] && [ "$status" -ne 0 ]; }; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
