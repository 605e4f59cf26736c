#!/usr/bin/env bash
# Evaluates CHECKPOINT in GPUS processes on this node; several nodes: see dist_run.sh.
exec "$(dirname "$0")/dist_run.sh" "$0" test.py "CONFIG CHECKPOINT" "$@"
