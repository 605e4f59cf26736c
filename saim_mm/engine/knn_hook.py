"""kNN accuracy while pretraining goes on."""

from __future__ import annotations

from pathlib import Path

from mmengine.runner import Runner

from ..evaluation import Pool
from ..evaluation.probes import Figures
from ..registry import register
from .probe_hook import ProbeHook


@register("hook")
class KNNHook(ProbeHook):
    """:class:`ProbeHook` with nearest neighbours alone; it logs ``accuracy/knn``.

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
        super().__init__(
            data_root,
            probes=[dict(type="KNNProbe", k=k, temperature=temperature, pool=pool)],
            interval=interval,
            by_epoch=by_epoch,
            images_per_class=images_per_class,
            val_images_per_class=val_images_per_class,
            val_share=val_share,
            crop_ratio=crop_ratio,
            batch_size=batch_size,
            num_workers=num_workers,
        )

    def _judge(self, runner: Runner) -> Figures:
        found = super()._judge(runner)  # of one probe, whatever it calls its figure
        return {self.tag: next(iter(found.values()))} if found else {}
