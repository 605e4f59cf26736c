"""Accuracy of each layer of a :class:`LayerwiseClsHead`, as a metric of MMEngine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from ..registry import register


@register("metric")
class LayerAccuracy(BaseMetric):
    """``accuracy/layer_00`` and so on, and ``accuracy/best_layer``, their maximum.

    In percent. Give it training images that are held out, not those to be judged on:
    :class:`BestLayerHook` chooses by it.
    """

    default_prefix = "accuracy"

    def process(
        self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keeps which layers are right about each sample."""
        for sample in data_samples:
            right = sample["pred_by_layer"].cpu() == sample["gt_label"].cpu()
            self.results.append(right.float())

    def compute_metrics(self, results: list[torch.Tensor]) -> dict[str, float]:
        """The mean over all samples."""
        means = (100 * torch.stack(results).mean(dim=0)).tolist()
        layers = {f"layer_{i:02d}": accuracy for i, accuracy in enumerate(means)}
        return {**layers, "best_layer": max(means)}
