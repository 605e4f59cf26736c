"""Writes the features of a folder of images, as .npz or .parquet.

A run that was killed goes on where it was, if it is started again.

Example:
  saim-mm embed encoder.pth photos -o features.npz
  saim-mm embed vit_base.safetensors photos -o features.parquet --pool cls --layer 8
"""

from __future__ import annotations

import argparse
from typing import Any

from ._progress import show_progress

#: Images that are left out and named; the file names all.
_NAMED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.embed`."""
    add = parser.add_argument
    add("encoder", help="checkpoint of ours, mmpretrain, the authors, MAE, timm or HF")
    add("folder", help="images, flat or nested")
    add("-o", "--out", required=True, metavar="FILE", help=".npz or .parquet")
    add(
        "--pool",
        choices=("avg", "cls"),
        default="avg",
        help="mean of the patches (default) or class token",
    )
    add("--layer", type=int, default=-1, help="block, negative from the end")
    add(
        "--crop-ratio",
        type=float,
        default=224 / 256,
        help="share of the resized image that is seen (default 0.875; 1: all)",
    )
    add(
        "--max-broken-share",
        type=float,
        default=1e-3,
        metavar="SHARE",
        help="share of the images that may be broken (default 0.001)",
    )
    add("--batch-size", type=int, default=128)
    add("--workers", type=int, default=4, help="loader processes")
    add("--config", help="config of the checkpoint")
    add("--num-heads", type=int, help="attention heads, if nothing else tells")
    add("--device", help="by default a GPU if there is one")


def run(**options: Any) -> int:
    """Prints what was written and what left out; returns the exit code."""
    from ..api import embed

    with show_progress("images") as progress:
        done = embed(**options, progress=progress)
    print(f"written: {done.path}, {done.rows} rows of {done.channels} channels")
    if done.broken:
        print(f"left out: {len(done.broken)} images that do not load")
    for name, why in list(done.broken.items())[:_NAMED]:
        print(f"  {name!r}: {why}")
    return 0
