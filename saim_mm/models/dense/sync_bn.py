"""Batch norm that is synchronised where several GPUs train, and only there."""

from __future__ import annotations

from typing import Literal

import torch
from mmengine.dist import get_world_size
from torch import nn

from ...registry import register


@register("model")
class SyncBNOrBN(nn.BatchNorm2d):
    """SyncBN on several CUDA processes, plain BN elsewhere, decided when it is built.

    Neither of the synchronised norms of the mm projects fits every machine: torch's
    ``SyncBN`` trains in several processes on CUDA only, and mmcv's ``MMSyncBN`` cannot
    even be built in a single one, so that mmdet's own inference could not build a
    detector that has it. All three have the same keys, so a checkpoint of one is a
    checkpoint of the others.

    What is built is an instance of one of these classes, not of this one. It is a class
    all the same because mmcv names a norm after its class.
    """

    def __new__(  # type: ignore[misc]  # another class on purpose
        cls,
        num_features: int,
        stats_mode: Literal["N"] | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> nn.Module:
        """Builds the norm that fits this process; with options of ``nn.BatchNorm2d``.

        ``stats_mode`` is how processes that saw another number of values count.
        ``None``, for the same number everywhere, is torch's ``SyncBN``. ``"N"`` is
        ``MMSyncBN`` with each process weighted by its B, which may be 0: for RoI heads,
        where a process may have no instance.

        Raises:
            ValueError: If ``stats_mode`` is unknown.
        """
        if stats_mode not in (None, "N"):
            raise ValueError(
                f"SyncBNOrBN stats_mode={stats_mode!r} is unknown; give None if all "
                "processes have as many values, or 'N' if one may have none."
            )
        options = (num_features, eps, momentum, affine, track_running_stats)
        if not torch.cuda.is_available() or get_world_size() == 1:
            return nn.BatchNorm2d(*options)
        if stats_mode is None:
            return nn.SyncBatchNorm(*options)
        from mmcv.ops import SyncBatchNorm  # its compiled ops may be missing

        return SyncBatchNorm(*options, stats_mode=stats_mode)
