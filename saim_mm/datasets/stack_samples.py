"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.dataset import default_collate

from ..registry import register


@register("function")
def stack_samples(samples: Sequence[Any], _scope_: str | None = None) -> Any:
    """Stacks samples as MMEngine's ``default_collate`` does.

    Args:
        samples: Of a dataset.
        _scope_: Not used. MMEngine hands it over in a config that inherits from
            ``saim_mm::...``, where ``default_collate`` refuses it.
    """
    return default_collate(samples)
