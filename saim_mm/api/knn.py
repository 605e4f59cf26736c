"""How good are frozen features? By nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..evaluation.features import Pool
from ..evaluation.frozen_encoder import FrozenEncoder
from ..evaluation.judge import Judgement, frozen_features, judge_by_knn
from ..evaluation.knn import check_votes
from ..utils.atomic_file import check_place
from ..visualization import save_png
from ..visualization.confusion import draw_confusion
from .load_encoder import opened


def knn(
    encoder: FrozenEncoder | str | Path,
    folder: str | Path,
    out: str | Path | None = None,
    *,
    k: Sequence[int] = (10, 20),
    temperature: float = 0.07,
    val_share: float | None = None,
    pool: Pool = "avg",
    images_per_class: int | None = None,
    val_images_per_class: int | None = None,
    crop_ratio: float = 224 / 256,
    batch_size: int = 128,
    workers: int = 4,
    config: str | Path | None = None,
    num_heads: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Judges an encoder by the nearest neighbours of its features.

    Args:
        encoder: From :func:`load_encoder`, or what that loads.
        folder: Has ``train/<class>/`` and ``val/<class>/`` (or ``test``).
        out: A picture, ``.png``, of what was taken for what by the last k.
        k: Numbers of neighbours.
        temperature: How much more a closer neighbour counts.
        val_share: Split off this share of each class, if there is no val or test.
        pool: ``avg``, the mean of the patches, or ``cls``, the class token.
        images_per_class: At most so many of each class to learn from.
        val_images_per_class: At most so many of each class to judge.
        crop_ratio: Share of the resized image that is seen; 1 for all of a square.
        batch_size: Images per forward.
        workers: Processes that load images.
        config: As for :func:`load_encoder`.
        num_heads: As for :func:`load_encoder`.
        device: By default a GPU if there is one, or where a loaded encoder is.
        progress: Called after each batch with how many images are done, and of how
            many.

    Raises:
        OSError: If a file or folder is missing, or the picture cannot be written.
        CheckpointError: If the encoder's file is not wholly one; a ``ValueError``.
        ValueError: If an option is out of range, the folders are of no use, or an image
            cannot be loaded.
    """
    check_picture(out)

    def check(number: int) -> None:
        for votes in k:
            check_votes(number, votes, temperature)

    encoder = opened(encoder, config, num_heads, device)
    features = frozen_features(
        encoder,
        folder,
        val_share,
        pool=pool,
        images_per_class=images_per_class,
        val_images_per_class=val_images_per_class,
        crop_ratio=crop_ratio,
        batch_size=batch_size,
        workers=workers,
        device=encoder.device,
        progress=progress,
        check=check,
    )
    judgement = judge_by_knn(features, k, temperature)
    draw(judgement, f"kNN, k = {k[-1]}", f"accuracy_k{k[-1]}", out)
    return judgement


def check_picture(out: str | Path | None) -> None:
    """Stops before any work what could not be drawn after it.

    Raises:
        ValueError: If the name does not end in ``.png``.
        OSError: If nothing can be written there.
    """
    if out is not None:
        if Path(out).suffix != ".png":
            raise ValueError(f"{out}: the picture's name must end in .png.")
        check_place(Path(out))


def draw(
    judgement: Judgement, what: str, accuracy: str, out: str | Path | None
) -> None:
    """Draws the confusion, if wanted; ``accuracy`` names the figure above it."""
    if out is not None:
        title = f"{what}: {judgement.figures[accuracy]} %"
        save_png(draw_confusion(judgement.confusion, judgement.classes, title), out)
