"""Heads that probe a frozen encoder while its images are augmented.

They read the patches of one or several layers, as ``out_type="featmap"`` and
``out_indices`` of the backbone give them, without any final norm.

Symbols: B images, L layers, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from mmengine.model import ModuleList
from mmpretrain.models.heads import ClsHead, LinearClsHead
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ...registry import register
from .attentive_pool import AttentivePool, EfficientPool, draw_pool


@register("model")
class AttentiveClsHead(LinearClsHead):
    """A learnt pooling of patches and a linear layer: AIM's probe, or the efficient.

    Of several layers it reads the mean, as AIM does of the last six.

    Args:
        num_classes: C.
        in_channels: D.
        kind: ``aim`` (:class:`AttentivePool`; its linear layer has no bias) or
            ``efficient`` (:class:`EfficientPool`).
        parts: Heads of ``aim``, queries of ``efficient``; by default 12 and 32.
        **kwargs: As for mmpretrain's ``LinearClsHead``.

    Raises:
        ValueError: If the kind is unknown, or the parts do not divide the channels.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        kind: Literal["aim", "efficient"] = "aim",
        parts: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.pool: AttentivePool | EfficientPool
        if kind == "aim":
            self.pool = AttentivePool(in_channels, parts or 12)
            self.fc = nn.Linear(in_channels, num_classes, bias=False)
        elif kind == "efficient":
            self.pool = EfficientPool(in_channels, parts or 32)
        else:
            raise ValueError(f"kind={kind!r} must be 'aim' or 'efficient'.")

    def init_weights(self) -> None:
        """Draws the pool's weights as its authors do, whatever ``init_cfg`` says."""
        super().init_weights()
        draw_pool(self.pool)

    def pre_logits(self, feats: Sequence[Tensor]) -> Tensor:
        """L feature maps (B, D, rows, columns) -> (B, D)."""
        mean = torch.stack(tuple(feats)).mean(dim=0) if len(feats) > 1 else feats[0]
        return self.pool(mean.flatten(2).transpose(1, 2))


@register("model")
class LayerwiseClsHead(ClsHead):
    """BatchNorm and a linear layer on the mean of the patches of each layer.

    All learn at once, each from its own layer: the loss is the sum of theirs. Which of
    them predicts, :class:`BestLayerHook` decides on validation data; it is kept in the
    checkpoint.

    Args:
        num_classes: C.
        in_channels: D.
        num_layers: L.
        **kwargs: As for mmpretrain's ``ClsHead``.
    """

    best: Tensor

    def __init__(
        self, num_classes: int, in_channels: int, num_layers: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.probes = ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(in_channels, affine=False, eps=1e-6),
                nn.Linear(in_channels, num_classes),
            )
            for _ in range(num_layers)
        )
        self.register_buffer("best", torch.tensor(num_layers - 1))

    def scores(self, feats: Sequence[Tensor]) -> Tensor:
        """L feature maps (B, D, rows, columns) -> (L, B, C)."""
        if len(feats) != len(self.probes):
            raise ValueError(
                f"LayerwiseClsHead has num_layers={len(self.probes)} and the backbone "
                f"gives {len(feats)}; set model.backbone.out_indices to all of them."
            )
        return torch.stack(
            [
                probe(feature.mean(dim=(2, 3)))
                for probe, feature in zip(self.probes, feats, strict=True)
            ]
        )

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Scores (B, C) of the best layer."""
        return self.scores(feats)[self.best]

    def loss(
        self, feats: Sequence[Tensor], data_samples: list[DataSample], **kwargs: Any
    ) -> dict[str, Tensor]:
        """The sum over layers, whose gradients have nothing to do with each other."""
        losses = [self._get_loss(s, data_samples, **kwargs) for s in self.scores(feats)]
        return dict(loss=torch.stack([each["loss"] for each in losses]).sum())

    def predict(
        self,
        feats: Sequence[Tensor],
        data_samples: list[DataSample | None] | None = None,
    ) -> list[DataSample]:
        """Labels by the best layer; those of all stand in ``pred_by_layer`` (L,)."""
        scores = self.scores(feats)
        samples = self._get_predictions(scores[self.best], data_samples)
        for sample, labels in zip(samples, scores.argmax(dim=2).T, strict=True):
            sample.set_field(labels, "pred_by_layer")
        return samples
