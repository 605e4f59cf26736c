#!/usr/bin/env bash
# Trains CONFIG in GPUS processes on this node; several nodes: see dist_run.sh.
exec "$(dirname "$0")/dist_run.sh" "$0" train.py "CONFIG" "$@"
