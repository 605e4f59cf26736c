"""What the picture tools share: arguments, the model, errors in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from saim_mm.models import SAIM
from saim_mm.visualization import read_images
from saim_mm.weights.load_model import load_model


def make_parser(description: str | None, default_out: str) -> argparse.ArgumentParser:
    """A parser with ``--out``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(default_out),
        metavar="FILE",
        help="where the picture goes (default: %(default)s)",
    )
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Config, checkpoint and folder, in this order, and what goes with them."""
    parser.add_argument("config", type=Path, help="config of pretraining")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of that run")
    parser.add_argument("images", type=Path, help="folder of images, nested or flat")
    parser.add_argument(
        "--number", type=int, default=6, metavar="N", help="images shown (default: 6)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of orders and masks")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )


def load_saim(config: Path, checkpoint: Path, device: str) -> SAIM:
    """The model, which must be a SAIM.

    Raises:
        ValueError: If it is another.
    """
    model = load_model(config, checkpoint, device)
    if not isinstance(model, SAIM):
        raise ValueError(f"{config}: describes a {type(model).__name__}, not a SAIM.")
    return model


def images_for(model: SAIM, folder: Path, number: int | None) -> Tensor:
    """Images of a folder as the model reads them (B, C, H, W)."""
    size = tuple(model.backbone.img_size)
    return read_images(folder, size, model.data_preprocessor, number)


def run(
    parser: argparse.ArgumentParser, draw: Callable[[argparse.Namespace], Path]
) -> int:
    """Draws, and says where the picture is.

    Returns:
        Exit status.
    """
    args = parser.parse_args()
    try:
        print(draw(args))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
