"""From a checkpoint and folders of classes to an accuracy of frozen features."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmpretrain.evaluation import ConfusionMatrix
from torch import Tensor

from ..datasets import BrokenImageError
from ..datasets.class_folders import ClassImages, split_class_folders
from ..utils.command_line import default_device
from .features import FeatureExtractor, Features, Pool, View, Views
from .frozen_encoder import FrozenEncoder
from .knn import knn_accuracy, knn_scores
from .linear_probe import ProbeRecipe, linear_probe
from .probes import Probe, check_enough, run_probes, views_of


class FrozenFeatures(NamedTuple):
    """Features of both sets.

    Attributes:
        train: By view, to learn from.
        val: By view, to be judged on.
        about: What they are of, as JSON can hold it.
        classes: The names of the labels.
        num_layers: Of the encoder.
    """

    train: Views
    val: Views
    about: dict[str, Any]
    classes: tuple[str, ...]
    num_layers: int

    @property
    def of_one_view(self) -> tuple[Features, Features]:
        """To learn from and to be judged on, where there is a single view."""
        (train,), (val,) = self.train.values(), self.val.values()
        return train, val


@dataclass(frozen=True)
class Judgement:
    """What was found.

    Attributes:
        figures: Accuracies in percent and what they are of, as JSON can hold it.
        confusion: Images (C, C) by class, rows, and by what they were taken for; zeros
            of named probes, which tell figures only.
        classes: The names of the C classes.
    """

    figures: dict[str, Any]
    confusion: np.ndarray
    classes: tuple[str, ...]

    def mistakes(self) -> list[tuple[str, str, int]]:
        """Class, what it was taken for, and how often; the most frequent first."""
        wrong = self.confusion * ~np.eye(len(self.classes), dtype=bool)
        pairs = sorted(np.argwhere(wrong), key=lambda pair: -wrong[tuple(pair)])
        names = self.classes
        return [(names[a], names[b], int(wrong[a, b])) for a, b in pairs]


def frozen_features(
    checkpoint: FrozenEncoder | str | Path,
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
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: Callable[[int], None] | None = None,
    probes: Sequence[Probe] = (),
) -> FrozenFeatures:
    """Runs the encoder of a checkpoint over folders of classes.

    ``checkpoint``, ``config`` and ``num_heads`` are as for :func:`build_encoder`,
    ``pool`` as for :class:`FeatureExtractor`, and the folders ``data`` with all that
    chooses images in them as for :func:`split_class_folders`. ``batch_size`` images are
    loaded by ``workers`` processes and read at a time on ``device``, by default a GPU
    if there is one, where the features stay. ``progress`` is called after each batch
    with how many images are done, and of how many; ``check`` before any is read, with
    how many there are to learn from. What ``probes`` read is extracted in one pass, by
    default ``pool`` of the last layer.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        CheckpointError: If the checkpoint holds no encoder; a ``ValueError``.
        ValueError: If the folders are of no use, an image cannot be loaded, an option
            is out of its range, or there are too few images for a probe.
    """
    start = time.perf_counter()
    encoder = (
        checkpoint
        if isinstance(checkpoint, FrozenEncoder)
        else FrozenEncoder(checkpoint, config, num_heads)
    )
    device = device or default_device()
    backbone, preprocessor = (
        part.to(device) for part in (encoder.backbone, encoder.preprocessor)
    )
    extractor = FeatureExtractor(backbone, preprocessor, pool, backbone.final_norm)
    limits = (images_per_class, val_images_per_class)
    view = (crop_ratio, encoder.loaded_channels)
    sets = split_class_folders(data, encoder.image_size, val_share, *limits, *view)
    classes = sets[0].classes
    if len(classes) < 2:
        raise ValueError(f"{data}: has one class; there is nothing to tell it from.")
    views = views_of(probes, extractor.num_layers) or {extractor.view}
    if check is not None:
        check(len(sets[0]))
    check_enough(probes, len(sets[0]))
    done = 0

    def add(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, sum(map(len, sets)))

    train, val = (
        _extract(extractor, images, views, batch_size, workers, add, device)
        for images in sets
    )
    about = dict(
        checkpoint=encoder.source,
        data=str(data),
        pool=pool,
        classes=len(classes),
        train_images=len(sets[0]),
        val_images=len(sets[1]),
        seconds_for_features=round(time.perf_counter() - start, 1),
    )
    return FrozenFeatures(train, val, about, classes, extractor.num_layers)


def _extract(
    extractor: FeatureExtractor,
    images: ClassImages,
    views: Collection[View],
    batch_size: int,
    workers: int,
    progress: Callable[[int], None],
    device: torch.device | str,
) -> Views:
    try:
        found = extractor.extract_views(images, views, batch_size, workers, progress)
        return {view: features.to(device) for view, features in found.items()}
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
) -> Judgement:
    """The accuracy for each k, and the confusion for the last.

    Raises:
        ValueError: As for :func:`knn_accuracy`, or if there is no k.
    """
    if not ks:
        raise ValueError("There is no k; give at least one number of neighbours.")
    (train, val), classes = features.of_one_view, features.classes
    figures = dict(features.about)
    for k in ks:
        accuracy = knn_accuracy(val, train, k, temperature)
        figures[f"accuracy_k{k}"] = round(accuracy, 2)
    scores = knn_scores(val.vectors, train, len(classes), ks[-1], temperature)
    return Judgement(figures, _confusion(scores.argmax(dim=1), val, classes), classes)


def judge_by_linear_probe(
    features: FrozenFeatures, recipe: ProbeRecipe | None = None
) -> Judgement:
    """The accuracies, the recipe, and the confusion.

    Raises:
        ValueError: As for :func:`linear_probe`.
    """
    (train, val), classes = features.of_one_view, features.classes
    recipe = recipe or ProbeRecipe()
    result = linear_probe(train, val, recipe)
    figures = {
        **features.about,
        "recipe": dataclasses.asdict(recipe),
        "train_accuracy": round(result.train_accuracy, 2),
        "accuracy": round(result.accuracy, 2),
    }
    return Judgement(figures, _confusion(result.predicted, val, classes), classes)


def judge_by_probes(features: FrozenFeatures, probes: Sequence[Probe]) -> Judgement:
    """The figures of any probes, of which the features are; accuracies in percent.

    Raises:
        ValueError: As for one of them.
    """
    found = run_probes(probes, *features[:2], features.num_layers)
    rounded = {name: round(figure, 4) for name, figure in found.items()}
    return Judgement({**features.about, **rounded}, np.zeros((0, 0), int), ())


def _confusion(predicted: Tensor, val: Features, classes: Sequence[str]) -> np.ndarray:
    counts = ConfusionMatrix.calculate(predicted, val.labels, len(classes))
    return counts.cpu().numpy()
