"""A head of one's own: SAIM's, with a loss that large errors sway less."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import Tensor

from saim_mm.models import Plan, SAIMHead


@MODELS.register_module()
class SmoothL1Head(SAIMHead):
    """Compares patches by smooth L1: squared below ``beta``, linear above.

    Args:
        beta: Where the two meet, in the units of the target, greater than 0.
        options: Of :class:`SAIMHead`, which refuses what it does not know.

    Raises:
        ValueError: If ``beta`` is not positive.
    """

    def __init__(self, beta: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        if not beta > 0:
            raise ValueError(
                f"SmoothL1Head beta={beta} must be greater than 0; loss='l1' of "
                "SAIMHead is the limit."
            )
        self.beta = beta

    def loss(self, queries: Tensor, images: Tensor, plan: Plan) -> Tensor:
        """Queries (B, K, D) and images (B, C, H, W) -> scalar; see SAIMHead."""
        prediction = self(queries, plan.query_mask)
        target = self.target(images, plan.asked)
        return F.smooth_l1_loss(prediction.float(), target, beta=self.beta)
