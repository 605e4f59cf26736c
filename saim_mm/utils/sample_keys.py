"""Random numbers that follow from a sample, drawn for a whole batch on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import MessageHub
from torch import Tensor

from .sample_index import SampleIndex, Stream
from .splitmix64 import mix64, signed


def sample_indices(data_samples: Sequence[Any] | None) -> list[SampleIndex] | None:
    """What :class:`ExactSampler` said about each packed sample, if it drew them all."""
    indices = [sample.get("sample_idx") for sample in data_samples or ()]
    if not indices or not all(isinstance(index, SampleIndex) for index in indices):
        return None
    return indices


def keys_of(
    indices: Sequence[SampleIndex], stream: Stream, device: torch.device
) -> Tensor:
    """The keys of B samples, (B,) long, on the device where they are needed."""
    keys = torch.tensor([signed(index.key(stream)) for index in indices])
    if device.type == "cuda":
        # From pageable memory the host would wait for the GPU to catch up.
        keys = keys.pin_memory()
    return keys.to(device, non_blocking=True)


def step_key(indices: Sequence[SampleIndex], stream: Stream) -> int:
    """The key of a training step, 64 bits, the same on all processes.

    It follows from the seed and the iteration that MMEngine's message hub knows of, so
    a resumed run comes to the same one; outside a run, from the first sample.
    """
    iteration = MessageHub.get_current_instance().get_info("iter")
    if iteration is None:
        return indices[0].key(stream)
    return mix64(indices[0].seed, iteration, stream)
