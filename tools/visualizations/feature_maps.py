#!/usr/bin/env python
"""Draws which patches an encoder takes for alike, beside what the centre attends to.

A colour is made of the first three principal components of the features of all patches
shown. Layers are counted from 0; -1 is the last one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from saim_mm.utils.command_line import one_line_errors
from saim_mm.visualization import save_png
from saim_mm.visualization.from_files import (
    add_arguments,
    add_out,
    draw_feature_maps,
    load_saim,
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the picture and prints where it is; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    add_out(parser, "feature_maps.png")
    parser.add_argument(
        "--layers", type=int, nargs="+", help="default: the middle and the last one"
    )
    parser.add_argument(
        "--subtract-position",
        type=int,
        nargs="?",
        const=256,
        default=0,
        metavar="IMAGES",
        help="subtract the mean at each place over so many images (256): features "
        "of predictors of pixels say foremost where a patch lies",
    )
    args = parser.parse_args(argv)
    model = load_saim(args.config, args.checkpoint, args.device)
    picture = draw_feature_maps(
        model, args.images, args.layers, args.number, args.subtract_position
    )
    save_png(picture, args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
