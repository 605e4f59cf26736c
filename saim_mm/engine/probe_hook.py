"""Probes of the encoder while pretraining goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from ..datasets import BrokenImageError
from ..datasets.channel_preprocessor import channels_of
from ..datasets.class_folders import ClassImages, split_class_folders
from ..evaluation import Pool, Views, build_probes, run_probes, views_of
from ..evaluation.probes import Figures, check_enough, curves_of
from ..registry import register
from .feature_hook import FeatureHook, extractor_of


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
            channels = self.images.channels
            dtype = torch.uint8 if channels is None else torch.float32
            blank = torch.zeros(channels or 3, *self.size, dtype=dtype)
            return dict(inputs=blank, data_samples=DataSample().set_gt_label(-1))


@register("hook")
class ProbeHook(FeatureHook):
    """Judges the encoder by any probes, every few epochs.

    All of them read one pass over the images. It logs what each finds, such as
    ``accuracy/knn`` and ``accuracy/linear`` in percent (log, ``scalars.json``,
    TensorBoard), and of a probe of the best layer the picture ``layer_curve``; it
    leaves the training as it is: with and without the hook the losses are the same, bit
    by bit. All processes share the work and get the same numbers, in data parallelism
    and with a sharded model.

    An evaluation is a forward of the encoder over all images: on the whole of ImageNet
    about a sixth of the operations of an epoch of pretraining. ``images_per_class=100``
    leaves a tenth of that. What a probe takes beside it says ``docs/probes.md``.

    An image that cannot be loaded is left out, with a warning that names it: bad data
    loses no run. If too few are left, the evaluation is left out.

    Args:
        data_root: Folder with ``train/<class>/`` and ``val/<class>/`` (or ``test``).
        probes: Names of :data:`saim_mm.evaluation.KNOWN_PROBES` (``knn``, ``linear``,
            ``linear-best``, ``attentive``, ``efficient``, ``rankme``), or configs, such
            as ``dict(type='LinearProbe', layer=6)``.
        interval: Epochs between evaluations, or iterations if not ``by_epoch``; the
            last one is always evaluated.
        by_epoch: Whether the interval counts epochs.
        images_per_class: Learn from at most so many images of each class; by default
            all.
        val_images_per_class: Judge on at most so many of each class; by default all.
        val_share: If there is no ``val`` folder, share of each class to be judged.
        crop_ratio: As for :class:`saim_mm.evaluation.ClassImages`.
        final_norm: As for :class:`saim_mm.evaluation.FeatureExtractor`.
        batch_size: Images per forward and process.
        num_workers: Processes that load images, for each process.

    Raises:
        ValueError: If the interval is not a positive integer, or a probe is unknown.
    """

    tag = "probes"

    def __init__(
        self,
        data_root: str | Path,
        probes: Sequence[str | dict[str, Any]] = ("knn", "linear"),
        interval: int = 5,
        by_epoch: bool = True,
        images_per_class: int | None = None,
        val_images_per_class: int | None = None,
        val_share: float | None = None,
        crop_ratio: float = 224 / 256,
        final_norm: bool = False,
        batch_size: int = 128,
        num_workers: int = 4,
    ) -> None:
        super().__init__(interval, by_epoch, batch_size, num_workers)
        self.probes = build_probes(probes)
        self.final_norm = final_norm
        self._data: dict[str, Any] = dict(
            root=data_root,
            val_share=val_share,
            images_per_class=images_per_class,
            val_images_per_class=val_images_per_class,
            crop_ratio=crop_ratio,
        )

    def before_train(self, runner: Runner) -> None:
        """Finds the images, so that a wrong folder ends the run at its start."""
        self._extractor = extractor_of(runner, final_norm=self.final_norm)
        size = tuple(self._extractor.backbone.img_size)
        channels = channels_of(self._extractor.preprocessor)
        self._bank, self._queries = split_class_folders(
            size=size, channels=channels, **self._data
        )
        check_enough(self.probes, len(self._bank))
        self._views = views_of(self.probes, self._extractor.num_layers)
        for images in (self._bank, self._queries):
            self._extractor.check_views(self._views, len(images))

    def _evaluate(self, runner: Runner, step: int) -> None:
        figures = self._judge(runner)
        curves = curves_of(figures)
        sizes = f"{len(self._queries)} images, {len(self._bank)} to learn from"
        by_layer = {name for name in figures if name.rpartition("/")[0] in curves}
        self._log(runner, figures, step, sizes, quiet=by_layer)
        if curves and is_main_process():
            from ..visualization import draw_layer_curve

            curve = draw_layer_curve(curves)
            runner.visualizer.add_image("layer_curve", curve, step=step)

    def _judge(self, runner: Runner) -> Figures:
        """What the probes find; nothing, if too few images are left."""
        bank = self._extract(runner, self._bank)
        queries = self._extract(runner, self._queries)
        learnt, judged = (len(next(iter(views.values()))) for views in (bank, queries))
        if learnt < max(probe.least for probe in self.probes) or not judged:
            runner.logger.warning(f"{self.tag}: too few images that load.")
            return {}
        try:
            return run_probes(self.probes, bank, queries, self._extractor.num_layers)
        except ValueError as error:  # of features: options were looked at before
            runner.logger.warning(f"{self.tag}: no evaluation, {error}")
            return {}

    def _extract(self, runner: Runner, images: ClassImages) -> Views:
        """Features of the images that can be loaded; the others are named."""
        backbone = self._extractor.backbone
        loadable = _BlankIfBroken(images, tuple(backbone.img_size))
        views = self._extractor.extract_views(loadable, self._views, **self._loading)
        is_broken = next(iter(views.values())).labels < 0
        broken = [images.samples[i][0] for i in is_broken.nonzero().flatten().tolist()]
        if broken:
            runner.logger.warning(
                f"{self.tag}: {len(broken)} of {len(images)} images cannot be loaded "
                f"and are left out: {broken[:5]}"
            )
            views = {view: found[~is_broken] for view, found in views.items()}
        device = next(backbone.parameters()).device
        return {view: found.to(device) for view, found in views.items()}


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
