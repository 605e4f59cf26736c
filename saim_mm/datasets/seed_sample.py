"""Makes the random transforms of any pipeline a function of the sample."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import BaseTransform

from ..registry import register
from ..utils.sample_index import seed_from


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
