"""kNN accuracy while pretraining goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.class_folders import split_class_folders
from ..evaluation import FeatureExtractor, Pool, knn_accuracy
from ..registry import register
from ..utils.model_state import random_state_kept, unwrap_model


@register("hook")
class KNNHook(Hook):
    """Judges the encoder by its nearest neighbours, every few epochs.

    It logs ``accuracy/knn`` in percent (log, ``scalars.json``, TensorBoard) and leaves
    the training as it is: with and without the hook the losses are the same, bit by
    bit. All processes share the work and get the same number.

    An evaluation is a forward of the encoder over all images: on the whole of ImageNet
    about a sixth of the operations of an epoch of pretraining. ``images_per_class=100``
    leaves a tenth of that.

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

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict | Sequence | None = None,
    ) -> None:
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
        device = next(self._extractor.backbone.parameters()).device
        with random_state_kept():
            bank = self._extractor.extract(self._bank, **self._loading).to(device)
            queries = self._extractor.extract(self._queries, **self._loading).to(device)
            accuracy = knn_accuracy(queries, bank, self.k, self.temperature)
        unit = "epoch" if self.by_epoch else "iteration"
        runner.logger.info(
            f"{self.tag}: {accuracy:.2f} after {unit} {step} ({len(self._queries)} "
            f"images, {len(self._bank)} neighbours, k={self.k})"
        )
        runner.message_hub.update_scalar(f"val/{self.tag}", accuracy)
        runner.visualizer.add_scalar(self.tag, accuracy, step=step)
