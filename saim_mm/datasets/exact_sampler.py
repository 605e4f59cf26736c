"""Which samples come, seeded by what, and as a batch.

The order does not depend on the number of processes, nor on restarts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import default_collate
from mmengine.dist import get_dist_info, sync_random_seed
from torch import Tensor
from torch.utils.data import Sampler

from ..registry import register
from ..utils.sample_index import SampleIndex, Stream, seed_from
from ..utils.splitmix64 import mix64


@register("data_sampler")
class ExactSampler(Sampler):
    """Shuffles by (seed, epoch) alone, and can begin anywhere without loading.

    Of W processes, process r takes the positions r, r + W, ... of one global order. As
    long as W times the batch size stays the same, every training step sees the same
    images, whatever W is.

    It yields :class:`SampleIndex`, from which crops, flips and patch orders follow.

    Args:
        dataset: What to draw from.
        shuffle: Permute the samples in each epoch.
        seed: The same in all processes; by default they agree on a random one.
        round_up: Where the samples do not divide by W: begin the order again until they
            do, or (``False``) leave out its last ones. Choose the latter together with
            ``drop_last`` of the loader: then the number of full batches of an epoch
            does not depend on W either.
        num_repeats: How often a sample comes in a row, each time with other crops and
            flips (repeated augmentation, Hoffer et al. 2020, as DeiT has it). An epoch
            keeps its length and so shows one in ``num_repeats`` samples.

    Attributes:
        seed: Seed of the run. A resumed run sets it to that of the run before.
        endless: Go from epoch to epoch without end, for a loop that counts iterations;
            batches then cross the border between epochs, and none is short. Set by
            :class:`ExactIterLoop`.

    Raises:
        ValueError: If the dataset is empty or ``num_repeats`` is not positive.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        num_repeats: int = 1,
    ) -> None:
        if num_repeats < 1:
            raise ValueError(
                f"num_repeats={num_repeats} must be positive; 1 repeats nothing, DeiT "
                "has 3"
            )
        if len(dataset) == 0:
            raise ValueError(
                f"{type(dataset).__name__} holds no image to draw from; check "
                "data_root, data_prefix and ann_file of train_dataloader.dataset."
            )
        self.dataset = dataset
        self.rank, self.world_size = get_dist_info()
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.round_up = round_up
        self.num_repeats = num_repeats
        self.endless = False
        self.epoch = 0
        self._start = 0

    def __len__(self) -> int:
        """Samples of this process in a whole epoch, wherever the next one begins."""
        return self._rounds(len(self.dataset))

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order that the next iteration goes through."""
        self.epoch = epoch

    def start_at(self, position: int) -> None:
        """Makes the next iteration, and only that one, begin later in the order.

        So many samples of all processes are left out, from the beginning of the epoch
        or, if :attr:`endless`, of the stream.
        """
        self._start = position

    def __iter__(self) -> Iterator[SampleIndex]:
        """Yields the samples of this process."""
        start, self._start = self._start, 0
        size = len(self.dataset)
        if not self.endless:
            rounds = max(self._rounds(size - start), 0)
            positions = start + self.rank + self.world_size * torch.arange(rounds)
            yield from self._samples(self.epoch, positions % size)
            return
        position = start + self.rank
        while True:
            epoch, offset = divmod(position, size)
            positions = torch.arange(offset, size, self.world_size)
            yield from self._samples(self.epoch + epoch, positions)
            position += len(positions) * self.world_size

    def _rounds(self, samples: int) -> int:
        """How often each of the W processes takes one."""
        extra = self.world_size - 1 if self.round_up else 0
        return (samples + extra) // self.world_size

    def _samples(self, epoch: int, positions: Tensor) -> Iterator[SampleIndex]:
        """The samples at some positions (K,) of an epoch's order."""
        order = torch.arange(len(self.dataset))
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed(mix64(self.seed, epoch, Stream.PERMUTATION))
            order = torch.randperm(len(self.dataset), generator=generator)
        # Not .tolist() of the whole order: that is a list of a million for ImageNet.
        indices = order[positions // self.num_repeats].tolist()
        repeats = (positions % self.num_repeats).tolist()
        for index, repeat in zip(indices, repeats, strict=True):
            # Each repeat has a key of its own, as if the dataset were that much longer.
            requested = index + repeat * len(self.dataset)
            yield SampleIndex(index, self.seed, epoch, requested)


@register("transform")
class SeedSample(BaseTransform):
    """Seeds ``random``, NumPy and torch, so that later transforms repeat themselves.

    Stands first in the pipeline of a classifier, detector or segmentor whose sampler is
    :class:`ExactSampler`; crop, flip and so on then depend on (seed, epoch, index)
    alone. :class:`UnlabeledImages` needs none, it does the same by itself.

    With any other sampler it does nothing. The generators are not put back: a process
    that also trains must seed its own steps, as :class:`ExactResumeHook` does.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Seeds from ``results["sample_idx"]``, which mmengine's datasets set."""
        if "sample_idx" in results:
            seed_from(results["sample_idx"])
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@register("function")
def stack_samples(samples: Sequence[Any], _scope_: str | None = None) -> Any:
    """Stacks samples as MMEngine's ``default_collate`` does.

    That one refuses ``_scope_``, which MMEngine hands over in a config that inherits
    from ``saim_mm::...``.
    """
    return default_collate(samples)
