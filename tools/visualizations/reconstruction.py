#!/usr/bin/env python
"""Draws predictions beside originals (Figure 3) and the error by visible patches.

With --mae it adds the mask and the reconstruction of an MAE of mmpretrain.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from _arguments import add_model, images_for, load_saim, make_parser, run
from mmpretrain.models.selfsup import MAE

from saim_mm.models import SAIM
from saim_mm.visualization import (
    HIDDEN,
    draw_position_error,
    position_errors,
    read_images,
    reconstruct_with_mae,
    reconstruction_sheet,
    save_png,
    stack,
    to_rgb,
)
from saim_mm.weights.load_model import load_model


def draw(args: argparse.Namespace) -> Path:
    """Writes the picture and returns where it is."""
    model = load_saim(args.config, args.checkpoint, args.device)
    images = images_for(model, args.images, args.number)
    generator = torch.Generator(images.device).manual_seed(args.seed)
    order = model.order_sampler.draw(len(images), images.device, generator)
    baselines = mae_columns(args, model) if args.mae else None
    sheet = reconstruction_sheet(model, images, order, baselines)

    many = images_for(model, args.images, args.curve_images)
    # Of few images several orders, or the curve would be noise.
    orders = max(1, args.curve_images // len(many))
    batches = many.split(args.batch_size)
    errors = position_errors(model, batches, generator, orders)
    curve = draw_position_error(
        errors, model.order_sampler, model.head.loss_kind, orders
    )
    save_png(stack([sheet, curve]), args.out)
    return args.out


def mae_columns(args: argparse.Namespace, model: SAIM) -> dict[str, np.ndarray]:
    """MAE's mask and its reconstruction of the same images."""
    rival = load_model(*args.mae, args.device)
    if not isinstance(rival, MAE):
        raise ValueError(f"--mae {args.mae[0]}: describes a {type(rival).__name__}.")
    size = tuple(model.backbone.img_size)
    if tuple(rival.backbone.img_size) != size:
        raise ValueError(
            f"--mae {args.mae[0]}: is for images of {rival.backbone.img_size} pixels, "
            f"and the SAIM for {size}; give models for the same size."
        )
    images = read_images(args.images, size, rival.data_preprocessor, args.number)
    result = reconstruct_with_mae(rival, images, args.seed)
    masked = to_rgb(images, rival.data_preprocessor)
    masked[result.hidden.cpu().numpy()] = HIDDEN
    return {
        "mask of MAE": masked,
        "MAE's reconstruction": to_rgb(result.images, rival.data_preprocessor),
    }


if __name__ == "__main__":
    parser = make_parser(__doc__, "reconstruction.png")
    add_model(parser)
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
    sys.exit(run(parser, draw))
