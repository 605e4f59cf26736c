#!/usr/bin/env python
"""A linear classifier on the frozen features of a checkpoint, without augmentation.

The paper's benchmark is configs/saim/benchmarks/vit-b_linear_90e_in1k.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from _probe import make_parser, run

from saim_mm.evaluation import Features, ProbeRecipe, linear_probe


def judge(args: argparse.Namespace, train: Features, val: Features) -> dict[str, Any]:
    """Accuracies in percent, and the recipe."""
    recipe = ProbeRecipe(args.epochs, args.probe_batch_size, args.base_lr)
    result = linear_probe(train, val, recipe)
    return dict(
        recipe=dataclasses.asdict(recipe),
        train_accuracy=round(result.train_accuracy, 2),
        accuracy=round(result.accuracy, 2),
    )


if __name__ == "__main__":
    parser = make_parser(__doc__)
    default = ProbeRecipe()
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--probe-batch-size", type=int, default=default.batch_size)
    parser.add_argument(
        "--base-lr", type=float, default=default.base_lr, help="at a batch of 256"
    )
    sys.exit(run(parser, judge))
