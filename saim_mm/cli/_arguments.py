"""Arguments that several verbs and tools have."""

from __future__ import annotations

import argparse
from typing import Any

_SHARED: dict[str, dict[str, Any]] = {
    "encoder": dict(
        help="checkpoint of ours, mmpretrain, the authors, MAE, timm or HF"
    ),
    "checkpoint": dict(help="pretraining checkpoint, or a bare encoder"),
    "data": dict(help="folder with train/<class>/ and val|test/<class>/"),
    "--config": dict(help="config of the checkpoint"),
    "--num-heads": dict(type=int, help="attention heads, if nothing else tells"),
    "--pool": dict(
        choices=("avg", "cls"),
        default="avg",
        help="mean of the patches (default) or class token",
    ),
    "--crop-ratio": dict(
        type=float,
        default=224 / 256,
        help="share of the resized image that is seen (default 0.875; 1: all)",
    ),
    "--batch-size": dict(type=int, default=128),
    "--workers": dict(type=int, default=4, help="loader processes"),
    "--device": dict(help="by default a GPU if there is one"),
    "--val-share": dict(
        type=float,
        metavar="SHARE",
        help="split off this share of each class, if there is no val or test folder",
    ),
    "--images-per-class": dict(type=int, metavar="N", help="at most N to learn from"),
    "--val-images-per-class": dict(type=int, metavar="N", help="at most N to judge"),
    "--k": dict(type=int, nargs="+", default=(10, 20), help="numbers of neighbours"),
    "--temperature": dict(type=float, default=0.07, help="of the votes"),
    "--epochs": dict(type=int, default=90),
    "--probe-batch-size": dict(type=int, default=256),
    "--base-lr": dict(type=float, default=0.1, help="at a batch of 256"),
    "--cfg-options": dict(
        nargs="+",
        default=(),
        metavar="KEY=VALUE",
        help="override settings of the config",
    ),
}
#: How :func:`saim_mm.api.load_encoder` loads.
LOADING = ("--config", "--num-heads")
#: How images are read, and by what.
READING = (*LOADING, "--pool", "--crop-ratio", "--batch-size", "--workers", "--device")
#: What :func:`saim_mm.evaluation.judge.frozen_features` takes.
JUDGING = ("--val-share", *READING, "--images-per-class", "--val-images-per-class")
#: What kNN takes, and the linear probe.
NEIGHBOURS = ("--k", "--temperature")
RECIPE = ("--epochs", "--probe-batch-size", "--base-lr")


def add_shared(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds arguments of this file by their names."""
    for name in names:
        parser.add_argument(name, **_SHARED[name])
