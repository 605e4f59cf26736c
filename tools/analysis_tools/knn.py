#!/usr/bin/env python
"""Weighted k nearest neighbours on the frozen features of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from _probe import make_parser, run

from saim_mm.evaluation import Features, knn_accuracy


def judge(args: argparse.Namespace, train: Features, val: Features) -> dict[str, Any]:
    """Accuracy in percent for each k."""
    return {
        f"accuracy_k{k}": round(knn_accuracy(val, train, k, args.temperature), 2)
        for k in args.k
    }


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument(
        "--k", type=int, nargs="+", default=[10, 20], help="numbers of neighbours"
    )
    parser.add_argument("--temperature", type=float, default=0.07)
    sys.exit(run(parser, judge))
