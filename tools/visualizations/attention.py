#!/usr/bin/env python
"""Draws what chosen patches attend to in the last layer (Figures 2 and 4).

With --raster, a model of raster order stands beside each map. A point is X,Y: with a
decimal point a share of width and height (0.5,0.5 is the centre), without one a pixel
of the picture that the model reads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saim_mm.utils.command_line import one_line_errors
from saim_mm.visualization import save_png, to_rgb
from saim_mm.visualization.from_files import (
    add_arguments,
    add_out,
    draw_attention,
    images_for,
    load_saim,
)

Point = tuple[float, float]


def parse_point(text: str) -> tuple[str, str]:
    """X and Y as written; whether they are pixels shows in how they are."""
    parts = text.split(",")
    try:
        x, y = (float(part) for part in parts)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no point; write 0.5,0.5 or 112,112"
        ) from None
    if x < 0 or y < 0:
        raise argparse.ArgumentTypeError(f"{text!r} lies outside of the image")
    return parts[0], parts[1]


def to_shares(point: tuple[str, str], size: tuple[int, int]) -> Point:
    """A point as written -> shares of width and height of an image (rows, columns)."""
    x, y = (
        float(text) if "." in text else (int(text) + 0.5) / length
        for text, length in zip(point, reversed(size), strict=True)
    )
    return x, y


def click_points(image: np.ndarray) -> list[Point]:
    """Lets the user click on an image, until the middle button or Enter."""
    import matplotlib

    if matplotlib.get_backend().lower() == "agg":
        raise ValueError("--click needs a display; give --points X,Y X,Y instead.")
    from matplotlib import pyplot as plt

    plt.imshow(image)
    plt.title("click on points; Enter ends")
    clicks = plt.ginput(n=-1, timeout=0)
    plt.close()
    if not clicks:
        raise ValueError("No point was clicked.")
    height, width = image.shape[:2]
    # imshow puts the centre of the first pixel at 0.
    return [((x + 0.5) / width, (y + 0.5) / height) for x, y in clicks]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    add_out(parser, "attention.png")
    parser.add_argument(
        "--points",
        nargs="+",
        type=parse_point,
        metavar="X,Y",
        default=[("0.5", "0.5")],
        help="reference points (default: the centre)",
    )
    parser.add_argument(
        "--click", action="store_true", help="click the points in a window instead"
    )
    parser.add_argument(
        "--raster",
        nargs=2,
        type=Path,
        metavar=("CONFIG", "CHECKPOINT"),
        help="a model of raster order to compare with",
    )
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the picture and prints where it is; returns the exit status."""
    args = parse_args(argv)
    model = load_saim(args.config, args.checkpoint, args.device)
    models = {f"{model.order_sampler.kind} order": model}
    if args.raster:
        raster = load_saim(*args.raster, args.device)
        models = {"raster order": raster, **models}
    if args.click:
        images = images_for(model, args.images, args.number)
        points = click_points(to_rgb(images, model.data_preprocessor)[0])
    else:
        size = tuple(model.backbone.img_size)
        points = [to_shares(point, size) for point in args.points]
    save_png(draw_attention(models, args.images, points, args.number), args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
