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
from pathlib import Path

import torch
from _arguments import add_model, images_for, load_saim, make_parser, run
from torch import Tensor

from saim_mm.visualization import (
    animation,
    complete,
    completion_frames,
    completion_sheet,
    keep_box,
    keep_drawn,
    keep_share,
    save_gif,
    save_png,
    to_rgb,
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


def draw(args: argparse.Namespace) -> Path:
    """Writes the picture and returns where it is."""
    if args.out.suffix not in (".png", ".gif"):
        raise ValueError(f"--out {args.out} must end in .png or .gif.")
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps {args.steps} must be at least 1.")
    model = load_saim(args.config, args.checkpoint, args.device)
    images = images_for(model, args.images, args.number)
    grid = tuple(model.backbone.patch_resolution)
    kept = kept_patches(args, grid)
    hidden = int((~kept).sum())
    length = model.order_sampler.segment_length
    steps = args.steps or max(1, hidden)
    patches_per_step = max(1, -(-hidden // (steps * length))) * length
    completion = list(
        complete(
            model,
            images,
            kept,
            patches_per_step,
            "true" if args.true_statistics else "kept",
            torch.Generator(images.device).manual_seed(args.seed),
        )
    )
    frames = completion_frames(completion, model.data_preprocessor)
    originals = to_rgb(images, model.data_preprocessor)
    if args.out.suffix == ".gif":
        seconds = max(0.05, args.seconds / len(frames))
        save_gif(animation(originals, frames), args.out, seconds)
    else:
        known = [
            round(step.known[0].float().mean().item() * model.order_sampler.num_patches)
            for step in completion
        ]
        note = describe(patches_per_step >= hidden, model.head.norm_pix, args)
        save_png(completion_sheet(originals, frames, known, note), args.out)
    return args.out


def describe(one_pass: bool, norm_pix: bool, args: argparse.Namespace) -> str:
    """What the reader of a sheet must know."""
    note = "Each hidden patch is predicted from the kept ones"
    note += " alone." if one_pass else " and from those predicted before it."
    if norm_pix:
        source = "its own" if args.true_statistics else "guessed from kept patches"
        note += f"\nBrightness and contrast of a hidden patch are {source}."
    return note


if __name__ == "__main__":
    parser = make_parser(__doc__, "completion.png")
    add_model(parser)
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
    sys.exit(run(parser, draw))
