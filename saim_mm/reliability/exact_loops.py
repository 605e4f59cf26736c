"""Training loops that begin where a checkpoint was written, and load nothing before it.

MMEngine's loops begin an epoch anew, or count forward by loading what was trained on
already, and they lose the gradients of an unfinished accumulation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import BatchSampler, DataLoader

from ..datasets.exact_sampler import ExactSampler
from ..registry import register
from ..utils.loader_options import drop_worker_options
from ..utils.sample_index import Stream, seed_generators
from ..utils.splitmix64 import mix64
from .schedules import fit_warm_ups


@dataclass(frozen=True)
class DataPosition:
    """How far a run has come in its data.

    Attributes:
        epoch: Epoch, counted from 0; always 0 in a loop that counts iterations.
        batches: Iterations finished in this epoch.
        samples: Samples that all processes together have finished in this epoch.
    """

    epoch: int = 0
    batches: int = 0
    samples: int = 0


def exact_sampler_of(loader: DataLoader) -> ExactSampler:
    """The sampler of a loader, below its batch sampler if it has one of its own.

    Raises:
        ValueError: If it is none that a run can be resumed with exactly.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if not isinstance(sampler, ExactSampler):
        raise ValueError(
            f"train_dataloader.sampler is a {type(sampler).__name__}, which cannot "
            "begin in the middle; set sampler=dict(type='ExactSampler', shuffle=True), "
            "or use mmengine's own loop in train_cfg."
        )
    return sampler


def global_batch_size(loader: DataLoader) -> int:
    """Samples that all processes together take per iteration."""
    batch_sampler: Any = loader.batch_sampler
    return batch_sampler.batch_size * exact_sampler_of(loader).world_size


def seed_training_step(seed: int, rank: int, iteration: int) -> None:
    """Makes all that a step draws (drop path, mixup) a function of these three.

    What a model draws for an iteration, it asks MMEngine's message hub for; no hook
    tells that where a step is repeated.
    """
    MessageHub.get_current_instance().update_info("iter", iteration)
    key = mix64(seed, rank, iteration, Stream.TRAINING_STEP)
    seed_generators(key)
    # torch.manual_seed takes ten times as long while no GPU is in use.
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(key)


class _ResumableBatches(BatchSampler):
    """A batch sampler that leaves out its first batches, once.

    For those that regroup samples, as mmdet's ``AspectRatioBatchSampler``: where their
    batch k begins is known only after the first k. Indices are counted, nothing loads.
    """

    def __init__(self, batch_sampler: Any) -> None:
        self.wrapped = batch_sampler
        self.sampler = batch_sampler.sampler
        self.batch_size = batch_sampler.batch_size
        self.drop_last = batch_sampler.drop_last
        self.first = 0

    def __len__(self) -> int:
        return len(self.wrapped)

    def __iter__(self) -> Iterator[list[int]]:
        first, self.first = self.first, 0
        return islice(self.wrapped, first, None)


class _Unread:
    """Stands in for a loader that must not be read yet."""

    def __init__(self, loader: DataLoader) -> None:
        self.dataset = loader.dataset
        self.length = len(loader)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class ExactLoop(BaseLoop):
    """What both loops do: begin reading somewhere, and repeat unfinished steps.

    :class:`ExactResumeHook` tells them where to begin.

    Args:
        runner: The runner.
        dataloader: The training data, with :class:`ExactSampler`.
        *args: What else MMEngine's loop takes, by name or in its order.

    Raises:
        ValueError: If the data has another sampler, or an epoch is less than a batch.
    """

    dataloader: DataLoader
    sampler: ExactSampler

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        *args: Any,
        **options: Any,
    ) -> None:
        drop_worker_options(dataloader)
        BaseLoop.__init__(self, runner, dataloader)
        loader = self.dataloader
        # A loop over iterations begins to load here, before it knows where to resume.
        super().__init__(runner, _Unread(loader), *args, **options)
        self.dataloader = loader
        self._from, self._pending_microbatches = DataPosition(), 0
        # Something else than a loader, such as the list that mm's vis_scheduler.py puts
        # in its place, is read from its beginning and cannot be resumed.
        self._resumable = isinstance(loader, DataLoader)
        if self._resumable:
            self._set_sampler(exact_sampler_of(loader))
            if type(loader.batch_sampler) is not BatchSampler:
                # A loader refuses to have it set, as iterating may have begun.
                batches = _ResumableBatches(loader.batch_sampler)
                loader.__dict__["batch_sampler"] = batches
        fit_warm_ups(runner, self._max_iters, max(len(loader), 1))

    def _set_sampler(self, sampler: ExactSampler) -> None:
        self.sampler = sampler

    def resume_at(self, position: DataPosition, pending_microbatches: int = 0) -> None:
        """Makes the next epoch, or the stream, begin at a position.

        The last ``pending_microbatches`` before it, of which no optimiser step was
        made, are computed once more: that needs no room in a checkpoint and no
        exchange between processes.
        """
        self._from = position
        self._pending_microbatches = pending_microbatches

    def _resumed_batches(self) -> Iterator[Any]:
        """Repeats what is pending, and reads on from the position."""
        pending, self._pending_microbatches = self._pending_microbatches, 0
        batches = self._batches_back(pending)
        if pending:
            self._replay(islice(batches, pending), self._runner.iter - pending)
        return batches

    def _replay(self, batches: Iterable[Any], first: int) -> None:
        """Repeats the iterations of an unfinished optimiser step, from ``first`` on.

        No hook is called and buffers are put back: all but the gradients was resumed.
        """
        runner = self._runner
        model, wrapper = runner.model, runner.optim_wrapper
        buffers = [buffer.clone() for buffer in model.buffers()]
        wrapper.initialize_count_status(model, first, runner.max_iters)
        for iteration, batch in enumerate(batches, first):
            seed_training_step(self.sampler.seed, self.sampler.rank, iteration)
            model.train_step(batch, optim_wrapper=wrapper)
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.data.copy_(value)

    def _batches_back(self, count: int) -> Iterator[Any]:
        """Reads on from ``count`` batches before the position, over epoch borders."""
        loader, at = self.dataloader, self._from
        images, start = global_batch_size(loader), at.batches - count
        epoch = 0 if self.sampler.endless else self._epoch
        for back in range(-(start // len(loader)) if start < 0 else 0, -1, -1):
            first = max(0, start + back * len(loader))
            self.sampler.set_epoch(epoch - back)
            if isinstance(loader.batch_sampler, _ResumableBatches):
                loader.batch_sampler.first = first
            else:
                # An epoch that began with batches of another size is out of step.
                offset = 0 if back else at.samples - at.batches * images
                self.sampler.start_at(first * images + offset)
            yield from loader


def _check_epoch(loader: DataLoader, sampler: ExactSampler) -> None:
    """Refuses an epoch without an iteration."""
    if len(loader):
        return
    images, processes = len(sampler.dataset), sampler.world_size
    batch = global_batch_size(loader)
    remedy = "give more images"
    if images >= processes:
        remedy = f"set train_dataloader.batch_size={images // processes} or less"
    raise ValueError(
        f"{type(sampler.dataset).__name__} holds {images} images, and a batch takes "
        f"{batch} ({processes} processes x {batch // processes}): {remedy}, "
        "train_dataloader.drop_last=False, or an ExactIterLoop, whose batches go from "
        "one epoch to the next."
    )


@register("loop")
class ExactEpochLoop(ExactLoop, EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop`` that can begin in the middle of an epoch.

    See :class:`ExactLoop`; ``max_epochs`` counts epochs.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(
            runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals
        )

    def _set_sampler(self, sampler: ExactSampler) -> None:
        super()._set_sampler(sampler)
        _check_epoch(self.dataloader, sampler)

    def run_epoch(self) -> None:
        """Trains what is left of an epoch."""
        runner = self.runner
        runner.call_hook("before_train_epoch")
        runner.model.train()
        batches = self._resumed_batches() if self._resumable else self.dataloader
        for idx, data_batch in enumerate(batches, self._from.batches):
            self.run_iter(idx, data_batch)
        self._from = DataPosition()
        runner.call_hook("after_train_epoch")
        self._epoch += 1


@register("loop")
class ExactIterLoop(ExactLoop, IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop`` that begins at any iteration without loading.

    The sampler goes on from epoch to epoch without end, as ``InfiniteSampler`` does.
    See :class:`ExactLoop`; ``max_iters`` counts iterations.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(
            runner, dataloader, max_iters, val_begin, val_interval, dynamic_intervals
        )

    def _set_sampler(self, sampler: ExactSampler) -> None:
        super()._set_sampler(sampler)
        sampler.endless = True

    def run(self) -> nn.Module:
        """Trains up to ``max_iters``."""
        runner = self.runner
        runner.call_hook("before_train")
        runner.call_hook("before_train_epoch")
        runner.model.train()
        batches: Iterator[Any] = chain.from_iterable(repeat(self.dataloader))
        if self._resumable:
            batches = self._resumed_batches()
        self.dataloader_iterator = batches
        while self._iter < self._max_iters and not self.stop_training:
            runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
            if runner.val_loop is not None and self._iter >= self.val_begin and due:
                runner.val_loop.run()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model
