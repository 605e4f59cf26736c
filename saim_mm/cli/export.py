"""Writes an encoder for torch.export, ONNX, timm, Hugging Face or as the authors do.

Every file has a certificate, that it computes what the encoder does, and a model card.

Example:
  saim-mm export encoder.pth -o encoder.onnx --dynamic-size
  saim-mm export epoch_800.pth -o encoder.pt2 --pool map --images photos
  saim-mm export encoder.pth -o encoder.safetensors --format timm
"""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import LOADING, add_shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.export`."""
    add_shared(parser, "encoder", *LOADING)
    add = parser.add_argument
    add("-o", "--out", required=True, metavar="FILE", help="what is written")
    add(
        "--format",
        choices=("pt2", "onnx", "timm", "hf", "official"),
        help="by default as FILE ends, .pt2 or .onnx",
    )
    add(
        "--fixed-batch",
        dest="dynamic_batch",
        action="store_false",
        help="a graph for one image, not for any number",
    )
    add(
        "--dynamic-size",
        action="store_true",
        help="a graph for images of any size of whole patches",
    )
    add(
        "--pool",
        choices=("avg", "cls", "map"),
        default="avg",
        help="mean of the patches (default), class token, or all patches",
    )
    add("--images", metavar="FOLDER", help="what the certificate compares on")
    add("--opset", type=int, default=17, help="of ONNX (default: %(default)s)")


def run(**options: Any) -> None:
    """Prints the certificate and what was written."""
    from ..api import export

    done = export(**options)
    print(done.certificate)
    print(f"written: {done.path} and {done.card}")
