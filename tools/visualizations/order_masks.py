#!/usr/bin/env python
"""Draws an order over a grid and the attention masks that follow from it (Figure 5)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

import torch

from saim_mm.models import OrderSampler
from saim_mm.models.order import OrderKind
from saim_mm.utils.command_line import one_line_errors
from saim_mm.visualization import order_sheet, save_png
from saim_mm.visualization.from_files import add_out


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_out(parser, "order_masks.png")
    sizes = dict(nargs=2, type=int, metavar=("ROWS", "COLUMNS"))
    parser.add_argument(
        "--grid", **sizes, default=[3, 3], help="patches of the grid (default: 3 3)"
    )
    parser.add_argument("--order", choices=get_args(OrderKind), default="stochastic")
    parser.add_argument(
        "--segment-size", **sizes, help="patches of a segment, for --order segments"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the picture and prints where it is; returns the exit status."""
    args = parse_args(argv)
    grid = (args.grid[0], args.grid[1])
    if min(grid) < 1:
        raise ValueError(f"--grid {grid[0]} {grid[1]} must be at least 1 1.")
    segment = tuple(args.segment_size) if args.segment_size else None
    family = OrderSampler(args.order, grid, segment)
    generator = torch.Generator().manual_seed(args.seed)
    order = family.draw(1, torch.device("cpu"), generator)[0]
    save_png(order_sheet(family, order, grid), args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
