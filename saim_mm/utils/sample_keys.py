"""Random numbers that follow from a sample, drawn for a whole batch on its device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .sample_index import SampleIndex, Stream
from .splitmix64 import signed


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
