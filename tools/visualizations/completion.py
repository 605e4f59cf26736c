#!/usr/bin/env python
"""Keeps some patches of images and lets SAIM predict the others.

With --steps 1 everything hidden is predicted in one pass, each patch from the kept ones
alone; by default one patch at a time, from the kept and the predicted ones. --out
FILE.png gives a contact sheet, FILE.gif an animation.

Where a model's targets are normalised (norm_pix), it says nothing about the brightness
and contrast of a hidden patch. By default they are guessed from the kept patches
nearby; --true-statistics takes them from the original, which gives them away.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from saim_mm.utils.command_line import one_line_errors
from saim_mm.visualization import keep_box, keep_drawn, keep_share
from saim_mm.visualization.from_files import (
    add_arguments,
    add_out,
    draw_completion,
    load_saim,
)


def parse_box(text: str) -> tuple[float, float, float, float]:
    """LEFT,TOP,RIGHT,BOTTOM."""
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no box; write LEFT,TOP,RIGHT,BOTTOM such as 0,0,1,0.5"
        ) from None
    return left, top, right, bottom


def kept_patches(args: argparse.Namespace, grid: tuple[int, int]) -> Tensor:
    """The patches that are kept (rows, columns), bool."""
    if args.keep_box:
        kept = keep_box(grid, args.keep_box)
    elif args.keep_mask:
        kept = keep_drawn(grid, args.keep_mask)
    else:
        kept = keep_share(grid, args.keep_share, args.seed)
    return ~kept if args.invert else kept


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    add_out(parser, "completion.png")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument(
        "--keep-share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="keep a share of the patches, drawn at random (default: 0.25)",
    )
    keep.add_argument(
        "--keep-box",
        type=parse_box,
        metavar="L,T,R,B",
        help="keep a box, in shares of width and height",
    )
    keep.add_argument(
        "--keep-mask", type=Path, metavar="IMAGE", help="keep what is bright in IMAGE"
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="keep what would be hidden, and hide the rest",
    )
    parser.add_argument(
        "--steps", type=int, help="number of steps (default: one per hidden patch)"
    )
    parser.add_argument(
        "--true-statistics",
        action="store_true",
        help="brightness and contrast of hidden patches from the original",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of a GIF (default: 5)"
    )
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the picture and prints where it is; returns the exit status."""
    args = parse_args(argv)
    model = load_saim(args.config, args.checkpoint, args.device)
    draw_completion(
        model,
        args.images,
        kept_patches(args, tuple(model.backbone.patch_resolution)),
        args.out,
        args.number,
        args.seed,
        args.steps,
        "true" if args.true_statistics else "kept",
        args.seconds,
    )
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
