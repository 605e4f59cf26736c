"""Options of data loaders that exclude each other."""

from __future__ import annotations

from typing import Any

#: What torch refuses where there are no workers, with the value that it takes.
_NEED_WORKERS = {"persistent_workers": False, "prefetch_factor": None}


def drop_worker_options(config: Any) -> None:
    """Lets ``num_workers=0`` alone say so, in all loaders of a config, in place."""
    if isinstance(config, dict):
        if config.get("num_workers") == 0:
            config.update({k: v for k, v in _NEED_WORKERS.items() if k in config})
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for inner in config:
            drop_worker_options(inner)
