"""kNN accuracy while pretraining goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from ..datasets import BrokenImageError
from ..datasets.class_folders import ClassImages, split_class_folders
from ..evaluation import FeatureExtractor, Features, Pool, knn_accuracy
from ..registry import register
from ..utils.model_state import random_state_kept, unwrap_model


class _BlankIfBroken(Dataset):
    """In place of an image that cannot be loaded: a blank one with the label -1.

    An error would leave the other processes waiting for this one's features.
    """

    def __init__(self, images: ClassImages, size: tuple[int, int]) -> None:
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        try:
            return self.images[idx]
        except (BrokenImageError, OSError):
            blank = torch.zeros(3, *self.size, dtype=torch.uint8)
            return dict(inputs=blank, data_samples=DataSample().set_gt_label(-1))


@register("hook")
class KNNHook(Hook):
    """Judges the encoder by its nearest neighbours, every few epochs.

    It logs ``accuracy/knn`` in percent (log, ``scalars.json``, TensorBoard) and leaves
    the training as it is: with and without the hook the losses are the same, bit by
    bit. All processes share the work and get the same number.

    An evaluation is a forward of the encoder over all images: on the whole of ImageNet
    about a sixth of the operations of an epoch of pretraining. ``images_per_class=100``
    leaves a tenth of that.

    An image that cannot be loaded is left out, with a warning that names it: bad data
    loses no run. If too few are left for ``k``, the evaluation is left out.

    Args:
        data_root: Folder with ``train/<class>/`` and ``val/<class>/`` (or ``test``).
        interval: Epochs between evaluations, or iterations if not ``by_epoch``; the
            last one is always evaluated.
        by_epoch: Whether the interval counts epochs.
        k: Number of neighbours.
        temperature: As for :func:`saim_mm.evaluation.knn_scores`.
        pool: ``avg`` (mean of the patches) or ``cls`` (class token).
        images_per_class: At most so many neighbours of each class; by default all.
        val_images_per_class: At most so many queries of each class; by default all.
        val_share: If there is no ``val`` folder, share of each class to be judged.
        crop_ratio: As for :class:`saim_mm.evaluation.ClassImages`.
        batch_size: Images per forward and process.
        num_workers: Processes that load images, for each process.

    Raises:
        ValueError: If the interval is not a positive integer.
    """

    priority = "LOW"
    #: What :class:`ShardingHook` refuses.
    runs_model_on_rank_zero = True
    tag = "accuracy/knn"

    def __init__(
        self,
        data_root: str | Path,
        interval: int = 5,
        by_epoch: bool = True,
        k: int = 20,
        temperature: float = 0.07,
        pool: Pool = "avg",
        images_per_class: int | None = None,
        val_images_per_class: int | None = None,
        val_share: float | None = None,
        crop_ratio: float = 224 / 256,
        batch_size: int = 128,
        num_workers: int = 4,
    ) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(
                f"interval={interval!r} must be a positive number of epochs (or, with "
                "by_epoch=False, of iterations), such as 5"
            )
        self.interval = interval
        self.by_epoch = by_epoch
        self.k = k
        self.temperature = temperature
        self.pool = pool
        self._data: dict[str, Any] = dict(
            root=data_root,
            val_share=val_share,
            images_per_class=images_per_class,
            val_images_per_class=val_images_per_class,
            crop_ratio=crop_ratio,
        )
        self._loading: dict[str, Any] = dict(
            batch_size=batch_size, num_workers=num_workers
        )

    def before_train(self, runner: Runner) -> None:
        """Finds the images, so that a wrong folder ends the run at its start."""
        model = unwrap_model(runner.model)
        self._extractor = FeatureExtractor(
            model.backbone, model.data_preprocessor, self.pool
        )
        size = tuple(model.backbone.img_size)
        self._bank, self._queries = split_class_folders(size=size, **self._data)
        if self.k > len(self._bank):
            raise ValueError(
                f"KNNHook k={self.k} is more than the {len(self._bank)} images to "
                "choose neighbours from; lower k or give more images."
            )

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Evaluates, if the interval counts iterations."""
        if not self.by_epoch and (
            self.every_n_train_iters(runner, self.interval)
            or self.is_last_train_iter(runner)
        ):
            self._evaluate(runner, step=runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Evaluates, if the interval counts epochs."""
        if self.by_epoch and (
            self.every_n_epochs(runner, self.interval)
            or self.is_last_train_epoch(runner)
        ):
            self._evaluate(runner, step=runner.epoch + 1)

    def _evaluate(self, runner: Runner, step: int) -> None:
        with random_state_kept():
            bank = self._extract(runner, self._bank)
            queries = self._extract(runner, self._queries)
            if len(bank) < self.k or not len(queries):
                runner.logger.warning(f"{self.tag}: too few images that load.")
                return
            accuracy = knn_accuracy(queries, bank, self.k, self.temperature)
        unit = "epoch" if self.by_epoch else "iteration"
        runner.logger.info(
            f"{self.tag}: {accuracy:.2f} after {unit} {step} ({len(queries)} "
            f"images, {len(bank)} neighbours, k={self.k})"
        )
        runner.message_hub.update_scalar(f"val/{self.tag}", accuracy)
        runner.visualizer.add_scalar(self.tag, accuracy, step=step)

    def _extract(self, runner: Runner, images: ClassImages) -> Features:
        """Features of the images that can be loaded; the others are named."""
        backbone = self._extractor.backbone
        loadable = _BlankIfBroken(images, tuple(backbone.img_size))
        features = self._extractor.extract(loadable, **self._loading)
        is_broken = features.labels < 0
        broken = [images.samples[i][0] for i in is_broken.nonzero().flatten().tolist()]
        if broken:
            runner.logger.warning(
                f"{self.tag}: {len(broken)} of {len(images)} images cannot be loaded "
                f"and are left out: {broken[:5]}"
            )
            features = Features(*(x[~is_broken] for x in vars(features).values()))
        return features.to(next(backbone.parameters()).device)
