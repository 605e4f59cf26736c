"""Trains a classifier on folders of classes, from a pretrained encoder of any size.

Batch, rate, workers and precision follow from the images and the machine, and are
printed. The config that is run is written into the folder of the results, beside
classifier.pth, the best epoch. Ctrl-C saves; the same command goes on.

Example:
  saim-mm finetune encoder.pth birds
  saim-mm finetune encoder.pth birds -o work_dirs/birds --epochs 50
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ._arguments import add_shared
from .pretrain import add_run_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.finetune`."""
    add = parser.add_argument
    add("encoder", help="checkpoint of a pretraining, or an encoder")
    add("folder", help="has train/CLASS/ and val/CLASS/")
    add_shared(parser, "--val-share")
    add_run_arguments(parser)


def run(**options: Any) -> None:
    """Shows plan and steps, and prints the accuracies."""
    from ..api import finetune
    from ..utils.progress_line import ProgressLine

    done = finetune(**options, progress=ProgressLine(sys.stdout, seconds=30))
    print(
        f"accuracy on val  best epoch {done.best:5.1f} %\n"
        f"                 last epoch {done.last:5.1f} %\n"
        f"config      {done.config}\nclassifier  {done.classifier} (best epoch)\n"
        f"log and checkpoints in {done.folder}"
    )
