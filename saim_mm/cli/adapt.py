"""Puts an encoder into the config of any detector, segmentor or classifier.

A short child config is written that changes the backbone, the preprocessor and the
optimiser, once a training step of it has worked; or the reason is given.

Example:
  saim-mm adapt mmdet::retinanet/retinanet_r50_fpn_1x_coco.py --encoder encoder.pth
  saim-mm adapt my_config.py --encoder encoder.pth -o my_config_saim.py
"""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.adapt`."""
    add = parser.add_argument
    add("config", help="a file, or mmdet::PATH, mmseg::PATH or mmpretrain::PATH")
    add("--encoder", required=True, metavar="FILE", help="checkpoint of the encoder")
    add("-o", "--output", metavar="FILE", help="the child; by default it is printed")
    add("--num-heads", type=int, help="attention heads; by default width / 64")
    add(
        "--keep-optimizer",
        action="store_true",
        help="leave optimiser and schedule as they are",
    )
    add(
        "--image-size",
        type=int,
        nargs=2,
        default=(256, 256),
        metavar=("ROWS", "COLUMNS"),
        help="of the made-up images (default: 256 256)",
    )


def run(**options: Any) -> None:
    """Prints the changes, and what a training step took."""
    from ..api import adapt

    options["image_size"] = tuple(options["image_size"])
    done = adapt(**options)
    if done.path is None:
        print(done.text)
    print("\n".join(done.changes))
    trial = done.trial
    print(
        f"one step on {trial.device}: loss {trial.loss:.4g}, {trial.parameters:,} "
        f"parameters learn, {trial.memory / 2**30:.2f} GiB, {trial.seconds:.1f} s"
    )
    if done.path is not None:
        print(f"written: {done.path}")
