"""Names broken images in the log, and ends all ranks together if there are too many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from saim_mm.datasets import UnlabeledImages
from saim_mm.registry import register


def find_unlabeled_images(dataset: Any) -> Iterator[UnlabeledImages]:
    """Yields every :class:`UnlabeledImages` in a dataset and its wrappers.

    Args:
        dataset: A dataset, or a wrapper that holds others as ``dataset`` or
            ``datasets``, as those of mmengine, mmpretrain and torch do.
    """
    if isinstance(dataset, UnlabeledImages):
        yield dataset
        return
    for inner in (getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())):
        if inner is not None:
            yield from find_unlabeled_images(inner)


@register("hook")
class BrokenImageHook(Hook):
    """Reports broken images of :class:`UnlabeledImages`; ignores other datasets.

    At every check the ranks exchange what their workers found, so that all of them
    replace the same images, and end at the same iteration with the same error when
    more are broken than ``max_broken_share`` allows. A check costs one all-reduce of
    one byte per image, 1.3 MB for ImageNet.

    Args:
        interval: Training iterations between checks; each epoch ends with one too.

    Raises:
        ValueError: If ``interval`` is not a positive integer.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 500) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(
                f"interval={interval!r} must be a positive number of iterations, "
                "such as 500"
            )
        self.interval = interval
        self._datasets: list[UnlabeledImages] = []
        self._named: list[set[int]] = []

    def before_train(self, runner: Runner) -> None:
        """Looks up the datasets to watch."""
        found = find_unlabeled_images(runner.train_dataloader.dataset)
        # By identity: a dataset that is concatenated with itself is reported once.
        self._datasets = list({id(dataset): dataset for dataset in found}.values())
        self._named = [set() for _ in self._datasets]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict | Sequence | None = None,
    ) -> None:
        """Checks every ``interval`` iterations."""
        if self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Checks what is left of the epoch."""
        self._check(runner)

    def after_train(self, runner: Runner) -> None:
        """Logs the total."""
        if self._datasets and is_main_process():
            runner.logger.info(
                "broken images: %d of %d, each replaced by the next one that loads",
                sum(map(len, self._named)),
                sum(map(len, self._datasets)),
            )

    def _check(self, runner: Runner) -> None:
        for dataset, named in zip(self._datasets, self._named, strict=True):
            new = [idx for idx in _agree_on_broken(dataset) if idx not in named]
            if not new:
                continue
            if is_main_process():
                for number, idx in enumerate(new, len(named) + 1):
                    # Formatted here: mmengine's logger drops a warning whose format
                    # string it has seen before, whatever the arguments.
                    runner.logger.warning(
                        f"broken image {number} of at most {dataset.max_broken}: "
                        f"{dataset.describe_broken(idx)}"
                    )
            named.update(new)
            dataset.check_broken_share(
                len(named), last=dataset.describe_broken(new[-1])
            )


def _agree_on_broken(dataset: UnlabeledImages) -> list[int]:
    """Returns, and marks, the images that are broken according to any rank."""
    # A copy, as workers may write into the original meanwhile. What they add is left
    # to the next check: all ranks must judge by the same images.
    broken = dataset.broken.clone()
    all_reduce(broken, op="max")
    indices = broken.nonzero().flatten().tolist()
    dataset.mark_broken(indices)
    return indices
