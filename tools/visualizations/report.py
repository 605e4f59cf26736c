#!/usr/bin/env python
"""Writes a one-page HTML report of a run: curves, pictures, probes, config, machine.

Pictures that a PictureHook logged are shown. With --images FOLDER the run's newest
checkpoint is loaded, by the config in the work dir, and its predictions are drawn.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from _arguments import images_for, load_saim, make_parser, run

from saim_mm.visualization import reconstruction_sheet, write_report


def newest_checkpoint(work_dir: Path) -> Path:
    """The checkpoint that ``last_checkpoint`` names, or else the newest file."""
    note = work_dir / "last_checkpoint"
    if note.is_file():
        named = work_dir / Path(note.read_text().strip()).name
        if named.is_file():
            return named
    files = sorted(work_dir.glob("*.pth"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError(f"{work_dir} holds no checkpoint; leave out --images.")
    return files[-1]


def draw_predictions(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Predictions of the newest checkpoint, by title."""
    configs = sorted(args.work_dir.glob("*/vis_data/config.py"))
    if not configs:
        raise ValueError(f"{args.work_dir} holds no config; leave out --images.")
    checkpoint = newest_checkpoint(args.work_dir)
    model = load_saim(configs[-1], checkpoint, args.device)
    images = images_for(model, args.images, args.number)
    generator = torch.Generator(images.device).manual_seed(args.seed)
    order = model.order_sampler.draw(len(images), images.device, generator)
    return {checkpoint.name: reconstruction_sheet(model, images, order)}


def draw(args: argparse.Namespace) -> Path:
    """Writes the report and returns where it is."""
    if not args.work_dir.is_dir():
        raise FileNotFoundError(f"{args.work_dir}: there is no such work dir.")
    pictures = draw_predictions(args) if args.images else {}
    write_report(args.work_dir, args.out, pictures)
    return args.out


if __name__ == "__main__":
    parser = make_parser(__doc__, "report.html")
    parser.add_argument("work_dir", type=Path, help="work dir of a run")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="draw predictions of these, too"
    )
    parser.add_argument("--number", type=int, default=6, help="images shown")
    parser.add_argument("--seed", type=int, default=0, help="of the orders")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    sys.exit(run(parser, draw))
