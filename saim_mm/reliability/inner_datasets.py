"""A dataset and all that it wraps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def with_inner_datasets(dataset: Any) -> Iterator[Any]:
    """Yields a dataset, those that it wraps, whatever they wrap, and so on.

    Wrappers have a ``dataset`` or ``datasets``, as in mmengine, mmpretrain and torch.
    """
    yield dataset
    for inner in (getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())):
        if inner is not None:
            yield from with_inner_datasets(inner)
