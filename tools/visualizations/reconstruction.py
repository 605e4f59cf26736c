#!/usr/bin/env python
"""Draws predictions beside originals (Figure 3) and the error by visible patches.

With --mae it adds the mask and the reconstruction of an MAE of mmpretrain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from saim_mm.utils.command_line import one_line_errors
from saim_mm.visualization import save_png
from saim_mm.visualization.from_files import (
    add_arguments,
    add_out,
    draw_reconstruction,
    load_saim,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    add_out(parser, "reconstruction.png")
    parser.add_argument(
        "--mae",
        nargs=2,
        type=Path,
        metavar=("CONFIG", "CHECKPOINT"),
        help="an MAE to compare with",
    )
    parser.add_argument(
        "--curve-images",
        type=int,
        metavar="N",
        default=256,
        help="images that the error is averaged over; of a smaller folder several "
        "orders of each (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=64)
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the picture and prints where it is; returns the exit status."""
    args = parse_args(argv)
    picture = draw_reconstruction(
        load_saim(args.config, args.checkpoint, args.device),
        args.images,
        args.number,
        args.seed,
        args.mae,
        args.curve_images,
        args.batch_size,
    )
    save_png(picture, args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
