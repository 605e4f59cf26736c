"""Pretrains on a folder of images, without labels; called again, it goes on.

Recipe, batch, rate, workers and precision follow from the images and the machine, and
are printed. The config that is run is written into the folder of the results, beside
encoder.pth and report.html. Ctrl-C saves; the same command goes on.

Example:
  saim-mm pretrain photos
  saim-mm pretrain photos -o work_dirs/photos --model vit-b --epochs 200
  saim-mm pretrain scans --init epoch_800.pth
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ._arguments import add_shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.pretrain`."""
    add = parser.add_argument
    add("folder", help="images, nested or flat; a pack, shards, a dataset on disk")
    add("--model", help="vit-nano, -tiny, -s, -b, -l or -h (default: vit-s)")
    add("--init", metavar="FILE", help="SAIM weights to go on from")
    add(
        "--with-decoder",
        action=argparse.BooleanOptionalAction,
        help="whether to take the decoder of --init (default: if it holds one)",
    )
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the verbs that train have in common."""
    add = parser.add_argument
    add("-o", "--out", metavar="DIR", help="default: work_dirs/VERB-of-FOLDER")
    add("--epochs", type=int, help="how often each image is seen")
    add("--batch-size", type=int, help="images per optimiser step")
    add("--workers", type=int, help="processes that load images")
    add("--device", help="cpu, cuda or cuda:N; by default a GPU if there is one")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add_shared(parser, "--cfg-options")


def run(**options: Any) -> None:
    """Shows plan and steps, and prints where the results are."""
    from ..api import pretrain
    from ..utils.progress_line import ProgressLine

    done = pretrain(**options, progress=ProgressLine(sys.stdout, seconds=30))
    print(
        f"config   {done.config}\nencoder  {done.encoder}\nreport   {done.report}\n"
        f"log and checkpoints in {done.folder}"
    )
