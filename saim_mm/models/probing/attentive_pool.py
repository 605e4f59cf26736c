"""Learnt pooling of patches: what attentive probes put before their linear layer.

Symbols: B images, T patches, D channels, H heads, Q queries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentivePool(nn.Module):
    """AIM's attentive probe without its linear layer (El-Nouby et al. 2024).

    BatchNorm over images and patches, keys and values; a learnt query, which is not
    projected, reads them with H heads, whose outputs are not projected either. It has
    2 D^2 + D parameters.

    Args:
        width: D.
        num_heads: H.

    Raises:
        ValueError: If the heads do not divide the channels.
    """

    def __init__(self, width: int, num_heads: int = 12) -> None:
        super().__init__()
        _check_divides("num_heads", num_heads, width)
        self.num_heads = num_heads
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.query = nn.Parameter(torch.empty(width))
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        x = self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, T, D/H)
            for part in (self.key(x), self.value(x))
        )
        q = self.query.unflatten(0, (self.num_heads, 1, -1)).expand(len(x), -1, -1, -1)
        return F.scaled_dot_product_attention(q.to(k.dtype), k, v).flatten(1)


class EfficientPool(nn.Module):
    """Efficient probing without its linear layer (Psomas et al. 2025, 2506.10178).

    Q learnt queries are compared with the features themselves; the j-th weighs the
    j-th part of D/Q channels of the values. BatchNorm comes after it. It has D^2 + Q D
    parameters, half of what AIM's has.

    Args:
        width: D.
        num_queries: Q.

    Raises:
        ValueError: If the queries do not divide the channels.
    """

    def __init__(self, width: int, num_queries: int = 32) -> None:
        super().__init__()
        _check_divides("num_queries", num_queries, width)
        self.query = nn.Parameter(torch.empty(num_queries, width))
        self.value = nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        scores = x @ self.query.T * x.shape[-1] ** -0.5  # (B, T, Q)
        weights = scores.softmax(dim=1).to(x.dtype)
        values = self.value(x).unflatten(-1, (len(self.query), -1))
        return self.norm(torch.einsum("btq,btqc->bqc", weights, values).flatten(1))


@torch.no_grad()
def draw_pool(
    pool: AttentivePool | EfficientPool, generator: torch.Generator | None = None
) -> None:
    """Draws the weights of a pool anew, by default from the global stream."""
    for weight in pool.parameters():
        weight.normal_(std=0.02, generator=generator)


def _check_divides(name: str, number: int, width: int) -> None:
    if number < 1 or width % number:
        raise ValueError(
            f"{name}={number} must divide the {width} channels of the features."
        )
