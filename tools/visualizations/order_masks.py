#!/usr/bin/env python
"""Draws an order over a grid and the attention masks that follow from it (Figure 5)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

import torch
from _arguments import make_parser, run

from saim_mm.models import OrderSampler
from saim_mm.models.order import OrderKind
from saim_mm.visualization import order_sheet, save_png


def draw(args: argparse.Namespace) -> Path:
    """Writes the picture and returns where it is."""
    grid = (args.grid[0], args.grid[1])
    if min(grid) < 1:
        raise ValueError(f"--grid {grid[0]} {grid[1]} must be at least 1 1.")
    segment = tuple(args.segment_size) if args.segment_size else None
    family = OrderSampler(args.order, grid, segment)
    generator = torch.Generator().manual_seed(args.seed)
    order = family.draw(1, torch.device("cpu"), generator)[0]
    save_png(order_sheet(family, order, grid), args.out)
    return args.out


if __name__ == "__main__":
    parser = make_parser(__doc__, "order_masks.png")
    sizes = dict(nargs=2, type=int, metavar=("ROWS", "COLUMNS"))
    parser.add_argument(
        "--grid", **sizes, default=[3, 3], help="patches of the grid (default: 3 3)"
    )
    parser.add_argument("--order", choices=get_args(OrderKind), default="stochastic")
    parser.add_argument(
        "--segment-size", **sizes, help="patches of a segment, for --order segments"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    sys.exit(run(parser, draw))
