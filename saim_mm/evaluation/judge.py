"""From a checkpoint and folders of classes to an accuracy of frozen features."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..datasets import BrokenImageError
from ..datasets.class_folders import ClassImages, split_class_folders
from ..utils.command_line import default_device
from .encoders import build_encoder
from .features import POOLS, FeatureExtractor, Features, Pool
from .knn import knn_accuracy
from .linear_probe import ProbeRecipe, linear_probe


class FrozenFeatures(NamedTuple):
    """Features of both sets.

    Attributes:
        train: To learn from.
        val: To be judged on.
        about: What they are of, as JSON can hold it.
    """

    train: Features
    val: Features
    about: dict[str, Any]


def frozen_features(
    checkpoint: str | Path,
    data: str | Path,
    val_share: float | None = None,
    config: str | Path | None = None,
    num_heads: int | None = None,
    pool: Pool = "avg",
    images_per_class: int | None = None,
    val_images_per_class: int | None = None,
    crop_ratio: float = 224 / 256,
    batch_size: int = 128,
    workers: int = 4,
    device: torch.device | str = "cpu",
) -> FrozenFeatures:
    """Runs the encoder of a checkpoint over folders of classes.

    ``checkpoint``, ``config`` and ``num_heads`` are as for :func:`build_encoder`,
    ``pool`` as for :class:`FeatureExtractor`, and the folders ``data`` with all that
    chooses images in them as for :func:`split_class_folders`. ``batch_size`` images are
    loaded by ``workers`` processes and read at a time on ``device``, where the features
    stay.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        CheckpointError: If the checkpoint holds no encoder; a ``ValueError``.
        ValueError: If the folders are of no use, an image cannot be loaded, or an
            option is out of its range.
    """
    start = time.perf_counter()
    backbone, preprocessor = build_encoder(checkpoint, config, num_heads)
    size, limits = tuple(backbone.img_size), (images_per_class, val_images_per_class)
    sets = split_class_folders(data, size, val_share, *limits, crop_ratio)
    extractor = FeatureExtractor(
        backbone.to(device), preprocessor.to(device), pool, backbone.final_norm
    )
    train, val = (
        _extract(extractor, images, batch_size, workers).to(device) for images in sets
    )
    about = dict(
        checkpoint=str(checkpoint),
        data=str(data),
        pool=pool,
        classes=len(sets[0].classes),
        train_images=len(train),
        val_images=len(val),
        seconds_for_features=round(time.perf_counter() - start, 1),
    )
    return FrozenFeatures(train, val, about)


def _extract(
    extractor: FeatureExtractor, images: ClassImages, batch_size: int, workers: int
) -> Features:
    try:
        return extractor.extract(images, batch_size, workers)
    except (OSError, RuntimeError, BrokenImageError) as error:
        # A worker's error is told as the text of its traceback; it ends in the error.
        *pages, text = str(error).strip().split("\n")
        if pages:
            kind, _, text = text.partition(": ")
            if not (isinstance(error, OSError) or "BrokenImageError" in kind):
                raise
        elif not isinstance(error, (OSError, BrokenImageError)):
            raise
        raise ValueError(f"{text}; mend or remove this image") from error


def judge_by_knn(
    features: FrozenFeatures, ks: Sequence[int] = (10, 20), temperature: float = 0.07
) -> dict[str, Any]:
    """What the features are of, and the accuracy in percent for each k.

    Raises:
        ValueError: As for :func:`knn_accuracy`.
    """
    train, val, result = features
    for k in ks:
        accuracy = knn_accuracy(val, train, k, temperature)
        result = {**result, f"accuracy_k{k}": round(accuracy, 2)}
    return result


def judge_by_linear_probe(
    features: FrozenFeatures, recipe: ProbeRecipe | None = None
) -> dict[str, Any]:
    """What the features are of, the recipe and the accuracies in percent.

    Raises:
        ValueError: As for :func:`linear_probe`.
    """
    train, val, about = features
    recipe = recipe or ProbeRecipe()
    result = linear_probe(train, val, recipe)
    return {
        **about,
        "recipe": dataclasses.asdict(recipe),
        "train_accuracy": round(result.train_accuracy, 2),
        "accuracy": round(result.accuracy, 2),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`frozen_features`, by the same names."""
    add = parser.add_argument
    add("checkpoint", type=Path, help="pretraining checkpoint, or a bare encoder")
    add("data", type=Path, help="folder with train/<class>/ and val|test/<class>/")
    add(
        "--val-share",
        type=float,
        metavar="SHARE",
        help="split off this share of each class, if there is no val or test folder",
    )
    add("--config", type=Path, help="config of the checkpoint")
    add("--num-heads", type=int, help="attention heads, if nothing else tells")
    add(
        "--pool",
        choices=POOLS,
        default="avg",
        help="mean of the patches (default) or class token, of the last block",
    )
    add("--images-per-class", type=int, metavar="N", help="at most N to learn from")
    add("--val-images-per-class", type=int, metavar="N", help="at most N to judge")
    add(
        "--crop-ratio",
        type=float,
        default=224 / 256,
        help="share of the resized image that is seen (default 0.875; 1: all)",
    )
    add("--batch-size", type=int, default=128)
    add("--workers", type=int, default=4, help="loader processes")
    add("--device", default=default_device())
