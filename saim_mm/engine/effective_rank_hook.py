"""How many directions features use, while pretraining goes on; without labels."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from ..datasets import SampleIndex
from ..evaluation import Pool, lidar, rankme
from ..registry import register
from .feature_hook import FeatureHook, extractor_of


class _Crops(Dataset):
    """Some images of the training, each as it is augmented in several epochs.

    The crops follow from the image and the number of the view, whatever the training
    has come to, so that figures of a run can be compared. The label is the image.
    """

    def __init__(self, dataset: Any, images: int, views: int) -> None:
        self.dataset, self.views = dataset, views
        self.images = [i * len(dataset) // images for i in range(images)]

    def __len__(self) -> int:
        return len(self.images) * self.views

    def __getitem__(self, idx: int) -> dict[str, Any]:
        image, view = divmod(idx, self.views)
        sample = self.dataset[SampleIndex(self.images[image], seed=0, epoch=view)]
        label = DataSample().set_gt_label(image)
        return dict(inputs=sample["inputs"], data_samples=label)


@register("hook")
class EffectiveRankHook(FeatureHook):
    """Logs RankMe and LiDAR of the features of training images.

    ``rankme`` (:func:`saim_mm.evaluation.rankme`) is of all crops together, ``lidar``
    (:func:`saim_mm.evaluation.lidar`) tells the crops of one image from the others. The
    crops are those of the run's own augmentation. Both need no labels; a fall is the
    sign of features that collapse. The training stays as it is, bit by bit; a forward
    of the encoder over ``images * views`` crops is what it costs.

    What is not said here is as for :class:`ProbeHook`.

    Args:
        images: How many images, evenly spread over the data set; at most all. Neither
            figure can be greater; LiDAR's authors take 1000.
        views: Crops of each. LiDAR's authors take 50.
        pool: ``avg`` (mean of the patches) or ``cls`` (class token).
        layer: Counted from 0; -1 is the last one.
        batch_size: Crops per forward and process.
        num_workers: Processes that load images, for each process.

    Raises:
        ValueError: If the interval is not a positive integer, or there are less than
            two images or views; when training begins, if the pool or layer is none.
    """

    def __init__(
        self,
        interval: int = 5,
        by_epoch: bool = True,
        images: int = 1000,
        views: int = 10,
        pool: Pool = "avg",
        layer: int = -1,
        batch_size: int = 128,
        num_workers: int = 4,
    ) -> None:
        super().__init__(interval, by_epoch, batch_size, num_workers)
        if images < 2 or views < 2:
            raise ValueError(
                f"EffectiveRankHook images={images} and views={views} must both be at "
                "least 2: it compares within and between images."
            )
        self.images, self.views = images, views
        self.pool, self.layer = pool, layer

    def before_train(self, runner: Runner) -> None:
        """Chooses the images."""
        self._extractor = extractor_of(runner, pool=self.pool, layer=self.layer)
        dataset = runner.train_dataloader.dataset
        if len(dataset) < 2:
            raise ValueError("EffectiveRankHook needs at least 2 training images.")
        self._crops = _Crops(dataset, min(self.images, len(dataset)), self.views)

    def _evaluate(self, runner: Runner, step: int) -> None:
        vectors = self._extractor.extract(self._crops, **self._loading).vectors
        vectors = vectors.to(next(self._extractor.backbone.parameters()).device)
        if not vectors.isfinite().all():
            runner.logger.warning("rankme, lidar: features that are not finite.")
            return
        try:
            by_image = vectors.unflatten(0, (-1, self.views))
            figures = dict(rankme=rankme(vectors), lidar=lidar(by_image))
        except ValueError as error:  # nothing to be counted: the run goes on
            runner.logger.warning(f"rankme, lidar: {error}")
            return
        sizes = f"{len(self._crops.images)} images, {self.views} views"
        self._log(runner, figures, step, sizes)
