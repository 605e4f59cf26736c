"""Converts a checkpoint to another format, and certifies that it computes the same.

formats:
  saim (our pretraining checkpoint), encoder (a bare one), release (the authors'),
  timm, hf (a folder of transformers), classifier (mmpretrain's), release-classifier,
  dino, aim and nepa (a folder): what their authors released

Example:
  saim-mm convert epoch_800.pth encoder.pth
  saim-mm convert encoder.pth timm.safetensors --source encoder --target timm
"""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.convert`."""
    add = parser.add_argument
    add("src", help="what to convert")
    add("dst", help="where the result is written")
    add("--source", default="saim", help="format of SRC (default: %(default)s)")
    add("--target", default="encoder", help="format of DST (default: %(default)s)")
    add("--num-heads", type=int, help="attention heads; by default width / 64, AIM 128")
    add("--final-norm", action="store_true", help="keep the decoder's norm")
    add("--prefix", default="", help="what precedes every key, such as 'backbone.'")
    add(
        "--smoothing",
        type=_smoothing,
        default=(9, 1.0),
        metavar="TAPS,SIGMA",
        help="of the target's blur, or 'none' (default: 9,1.0)",
    )
    add("--coupled", action="store_true", help="the decoder runs through the encoder")
    add("--decoder-depth", type=int, help="layers of a release's shared decoder")


def run(**options: Any) -> None:
    """Prints the certificate."""
    from ..api import convert
    from ..parity.convert_files import check_passed

    certificate = convert(**options)
    print(certificate)
    check_passed(certificate, options["dst"])
    print(f"written: {options['dst']}")


def _smoothing(text: str) -> tuple[int, float] | None:
    if text == "none":
        return None
    taps, _, sigma = text.partition(",")
    try:
        return int(taps), float(sigma)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give TAPS,SIGMA, such as 9,1.0, or none"
        ) from None
