#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: runs SCRIPT in GPUS processes on this node.
#
#   dist_run.sh CALLER SCRIPT USAGE POSITIONALS... GPUS [OPTIONS...]
#
# USAGE names the positionals, so it also tells how many there are. Several nodes: run
# the same command on each, with GPUS per node and
#   NNODES       number of nodes
#   NODE_RANK    number of this node, from 0
#   MASTER_ADDR  address of node 0
#   PORT         a free port on node 0 (default 29500)
# MAX_RESTARTS=N starts all processes anew when one of them fails, up to N times; training
# goes on from the newest good checkpoint, the first time, too: --resume auto, unless
# --resume is given. With NNODES give it on all nodes; who is node 0 then does not matter.
# Without CUDA the processes run on the CPU and talk over gloo.
#
# torchrun passes SIGTERM, SIGINT and SIGHUP on to the processes (SIGUSR1 too, and under
# nohup no SIGHUP, where it can be told), so that training finishes its step and saves. It
# kills what is left of them after 30 seconds, and itself ends with code 1, whatever theirs
# is. If it is killed they save and end as well.
set -euo pipefail

caller=$1 script=$2 usage=$3
shift 3
count=$(wc -w <<<"$usage")
if [ $# -le "$count" ]; then
  echo "usage: $caller $usage GPUS [OPTIONS of tools/$script...]" >&2
  exit 2
fi
positionals=("${@:1:count}")
gpus=${*:count+1:1}
options=("${@:count+2}")
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}

if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
  echo "$caller: GPUS must be a positive number, not '$gpus'." >&2
  exit 2
fi
restarts=${MAX_RESTARTS:-0}
if ! [[ $restarts =~ ^[0-9]+$ ]]; then
  echo "$caller: MAX_RESTARTS must be a number, not '$restarts'." >&2
  exit 2
fi
if [ "$restarts" -gt 0 ] && [ "$script" = train.py ] &&
  [[ " ${options[*]:-} " != *" --resume"* ]]; then
  # First, as --cfg-options takes all that follows it.
  options=(--resume auto "${options[@]}")
fi

read -r cuda can_be_told hangup < <("$python" -c '
import signal, torch
from torch.distributed.launcher import LaunchConfig
hangup = "" if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else ",SIGHUP"
print(torch.cuda.device_count(), hasattr(LaunchConfig, "signals_to_handle"), hangup)')
signals=()
if [ "$can_be_told" = True ]; then
  signals=("--signals-to-handle=SIGTERM,SIGINT,SIGQUIT,SIGUSR1$hangup")
fi

if [ -z "${NNODES:-}" ]; then
  have=$cuda what=GPUs
  if [ "$cuda" -eq 0 ]; then
    # nproc would answer with OMP_NUM_THREADS.
    have=$(env -u OMP_NUM_THREADS nproc) what="CPU cores and no GPU"
  fi
  if [ "$gpus" -gt "$have" ]; then
    per_node=$((cuda > 0 ? cuda : 8))
    nodes=$(((gpus + per_node - 1) / per_node))
    {
      echo "$caller: $gpus processes asked for, but this node has $have $what."
      echo "To start $nodes x $per_node, run one of these lines on each node:"
      for ((rank = 0; rank < nodes; rank++)); do
        echo NNODES="$nodes" NODE_RANK="$rank" "MASTER_ADDR=<address of node 0>" \
          PORT="${PORT:-29500}" "$caller" "${positionals[*]}" "$per_node" \
          "${options[*]:-}"
      done
    } >&2
    exit 1
  fi
fi

rendezvous=(--standalone) # one node: any free port
if [ -n "${NNODES:-}" ] || [ -n "${PORT:-}" ]; then
  rendezvous=(
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}"
  )
fi
if [ "$restarts" -gt 0 ]; then
  # Else the new processes would find the addresses of the old ones in torchrun's store,
  # and sometimes try those.
  export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
  if [ -n "${NNODES:-}" ] || [ -n "${PORT:-}" ]; then
    # All nodes have to start anew together, which this kind alone can arrange.
    rendezvous=(
      --nnodes="${NNODES:-1}" --rdzv_backend=c10d --rdzv_id=saim
      --rdzv_endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}"
    )
  fi
fi
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # as torchrun would, without its warning
exec "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$gpus" \
  --max_restarts="$restarts" "${signals[@]}" \
  "$tools/$script" "${positionals[@]}" --launcher pytorch "${options[@]}"
