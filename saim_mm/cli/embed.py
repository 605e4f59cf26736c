"""Writes the features of a folder of images, as .npz or .parquet.

A run that was killed goes on where it was, if it is started again.

Example:
  saim-mm embed encoder.pth photos -o features.npz
  saim-mm embed vit_base.safetensors photos -o features.parquet --pool cls --layer 8
"""

from __future__ import annotations

import argparse
from typing import Any

from ..utils.command_line import counted
from ._arguments import READING, add_shared
from ._progress import show_progress

#: Images that are left out and named; the file names all.
_NAMED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.embed`."""
    add_shared(parser, "encoder", *READING)
    add = parser.add_argument
    add("folder", help="images, flat or nested")
    add("-o", "--out", required=True, metavar="FILE", help=".npz or .parquet")
    add("--layer", type=int, default=-1, help="block, negative from the end")
    add(
        "--max-broken-share",
        type=float,
        default=1e-3,
        metavar="SHARE",
        help="share of the images that may be broken (default 0.001)",
    )


def run(**options: Any) -> None:
    """Prints what was written and what left out."""
    from ..api import embed

    with show_progress("images") as progress:
        done = embed(**options, progress=progress)
    rows, channels = counted(done.rows, "row"), counted(done.channels, "channel")
    print(f"written: {done.path}, {rows} of {channels}")
    if done.broken:
        do = "does" if len(done.broken) == 1 else "do"
        print(f"left out: {counted(len(done.broken), 'image')} that {do} not load")
    for name, why in list(done.broken.items())[:_NAMED]:
        print(f"  {name!r}: {why}")
