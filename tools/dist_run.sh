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
# Without CUDA the processes run on the CPU and talk over gloo.
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

if [ -z "${NNODES:-}" ]; then
  cuda=$("$python" -c 'import torch; print(torch.cuda.device_count())')
  have=$cuda what=GPUs
  if [ "$cuda" -eq 0 ]; then
    have=$(nproc) what="CPU cores and no GPU"
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
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # as torchrun would, without its warning
exec "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$gpus" \
  "$tools/$script" "${positionals[@]}" --launcher pytorch "${options[@]}"
