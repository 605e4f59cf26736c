"""The index of a sample that also says in which run and epoch it was asked for.

Everything random about a sample - crop, flip, order of patches - is drawn from a key
that is a pure function of (seed, epoch, index). So it does not matter which process,
worker or restart the sample is made in, nor what was drawn before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import IntEnum
from typing import Any

import numpy as np
import torch

from .model_state import random_state_kept
from .splitmix64 import mix64


class Stream(IntEnum):
    """What a key is for; keys of different streams have nothing in common."""

    AUGMENTATION = 1
    ORDER = 2
    QUERY_STEPS = 3
    PERMUTATION = 4
    TRAINING_STEP = 5
    SCOPE = 6


class SampleIndex(int):
    """A dataset index that knows the seed and epoch it was drawn for.

    It is an ``int`` to all who ask; OpenMMLab's datasets put it under ``sample_idx``,
    from where it reaches transforms and, packed, the model. ``%``, ``+`` and ``-``, by
    which wrappers of datasets find the sample of an inner one, keep what it knows.

    Attributes:
        seed: Seed of the run.
        epoch: Epoch, counted from 0.
        requested: The index that the sampler gave; by default this one. Keys follow
            from it: a broken image's stand-in is cropped as that would have been.
    """

    seed: int
    epoch: int
    requested: int

    def __new__(  # noqa: D102
        cls, index: int, seed: int, epoch: int, requested: int | None = None
    ) -> SampleIndex:
        self = super().__new__(cls, index)
        self.seed = seed
        self.epoch = epoch
        self.requested = int(index) if requested is None else requested
        return self

    def key(self, stream: Stream) -> int:
        """Returns the 64 bits from which one kind of randomness is drawn."""
        return mix64(self.seed, self.epoch, self.requested, stream)

    def _moved_to(self, index: int) -> SampleIndex:
        return SampleIndex(index, self.seed, self.epoch, self.requested)

    def __add__(self, other: int) -> SampleIndex:
        return self._moved_to(int(self) + int(other))

    __radd__ = __add__

    def __sub__(self, other: int) -> SampleIndex:
        return self._moved_to(int(self) - int(other))

    def __mod__(self, other: int) -> SampleIndex:
        return self._moved_to(int(self) % int(other))

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleIndex, (int(self), self.seed, self.epoch, self.requested)


def seed_generators(key: int) -> None:
    """Seeds the generators of ``random``, NumPy and, on the CPU, torch from 64 bits.

    ``torch.manual_seed`` would also touch every GPU, for each sample.
    """
    random.seed(key)
    np.random.seed([key & 0xFFFFFFFF, key >> 32])
    torch.default_generator.manual_seed(key)


def seed_from(index: int) -> None:
    """Seeds the generators from a sample; a plain ``int`` leaves them alone."""
    if isinstance(index, SampleIndex):
        seed_generators(index.key(Stream.AUGMENTATION))


@contextmanager
def generators_of(index: int, restore: bool) -> Iterator[None]:
    """Draws from what follows from a sample; of a plain ``int``, nothing does.

    Args:
        index: A :class:`SampleIndex`, or any index.
        restore: Put the generators back afterwards, as if nothing had been drawn.
    """
    restore = restore and isinstance(index, SampleIndex)
    # Of the CPU alone, for each sample: a GPU would take time.
    with random_state_kept(cuda=False) if restore else nullcontext():
        seed_from(index)
        yield
