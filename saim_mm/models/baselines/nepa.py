"""NEPA (Xu et al. 2025): predict the embedding of the next patch, by cosine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ...registry import register
from ..plan import CAUSAL, Mask, Plan, sort_tokens
from ..saim import SAIM


@register("model")
class NEPA(SAIM):
    """SAIM whose target is its own patch embedding, without gradient.

    With ``order="raster"`` and ``neck.depth=0`` this is NEPA. With a random order the
    encoder cannot know which patch comes next, so it needs a query stream, that is
    ``neck.depth`` of at least 1: a member of the family that has no paper.

    The target moves with the model. It has collapsed where ``target_cosine``, which is
    logged beside the loss, comes to 1.
    """

    def loss(
        self,
        inputs: Tensor,
        data_samples: Sequence[DataSample] | None = None,
        order: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The training loss.

        Args:
            inputs: Images (B, C, H, W), after the data preprocessor.
            data_samples: As for :meth:`plan`.
            order: As for :meth:`plan`.

        Returns:
            ``loss``, between -1 and 1, and ``target_cosine``, the mean cosine between
            two targets; float32 scalars.
        """
        plan = self.plan(inputs, data_samples, order)
        content = self.backbone(inputs, plan)
        queries = self.neck(content, plan, self.backbone.layers)
        with torch.no_grad():
            embeddings, _ = self.backbone.patch_embed(inputs)
        target = sort_tokens(embeddings, plan.asked)
        return dict(
            loss=self.head.loss(queries, embeddings, plan),
            target_cosine=mean_cosine(target),
        )


@register("model")
class EmbeddingHead(BaseModule):
    """Compares queries, as they are, with patch embeddings: minus the mean cosine.

    It belongs to :class:`NEPA`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.projector = IdentityProjector()

    def forward(self, queries: Tensor, query_mask: Mask = CAUSAL) -> Tensor:
        """Queries (B, K, D) as they are."""
        return self.projector(queries, query_mask)

    def loss(self, queries: Tensor, embeddings: Tensor, plan: Plan) -> Tensor:
        """Minus the mean cosine over what is asked for.

        Args:
            queries: Sorted queries (B, K, D).
            embeddings: Embeddings (B, N, D) of all patches, in raster order.
            plan: Which patches the queries ask for.

        Returns:
            Scalar, float32.

        Raises:
            ValueError: If images are given instead of embeddings.
        """
        if embeddings.dim() != 3:
            raise ValueError(
                "EmbeddingHead compares embeddings and was given images; set "
                "model.type='NEPA'."
            )
        target = sort_tokens(embeddings, plan.asked).detach()
        return -F.cosine_similarity(queries.float(), target.float(), dim=-1).mean()


class IdentityProjector(nn.Module):
    """No projector at all."""

    joint = False
    layers: tuple[nn.Module, ...] = ()
    to_pixels = nn.Identity()

    def forward(self, queries: Tensor, query_mask: Mask) -> Tensor:
        """(B, K, D) as they are."""
        return queries


def mean_cosine(vectors: Tensor) -> Tensor:
    """Mean cosine of all pairs of different vectors (..., D); a float32 scalar."""
    units = F.normalize(vectors.float().flatten(0, -2), dim=-1)
    count = len(units)
    return (units.sum(0).square().sum() - count) / max(1, count * (count - 1))
