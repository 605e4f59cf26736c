"""Floating-point operations of a SAIM model, in closed form, and what GPUs can do.

Everything follows from the plans that can be drawn; of several, the mean counts.

One multiply-add is two operations. Only matrix products and convolutions count, and
attention counts whole, though a causal kernel skips half of it: that is what others
mean by model FLOPs, so the figures compare.

Not by torch's ``FlopCounterMode``, which only the tests use: it needs torch 2.3 and a
second, uncompiled model, and the head's autocast cannot run on the meta device.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import nn

from ..models import NEPA, SAIM, CrossMAENeck, DINOPretraining, Plan, RandSACNeck
from ..models.baselines.dino_head import LARGE_CROPS
from ..models.layers import AttentionBlock
from ..models.order import Scope
from ..models.saim_head import GaussianBlur, Projector

#: Dense 16-bit matrix products in TFLOP/s, from the makers' data sheets. The first
#: entry counts whose words are all in the device's name.
_PEAK_TFLOPS: dict[str, float] = {
    "B200": 2250,
    "H200 NVL": 835,
    "H200": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "A10": 125,
    "V100 PCIE": 112,
    "V100": 125,
}


def known_peak_tflops(device_name: str) -> float | None:
    """Peak of a GPU by its name, TFLOP/s of dense 16-bit products.

    Args:
        device_name: As ``torch.cuda.get_device_name()`` gives it.

    Returns:
        ``None`` for an unknown GPU, or a slice of one.
    """
    words = set(device_name.replace("-", " ").split())
    if "MIG" in words:
        return None
    for name, peak in _PEAK_TFLOPS.items():
        if set(name.split()) <= words:
            return peak
    return None


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per image, by part.

    Attributes:
        embedding: Patches to tokens.
        content: The content stream, that is the encoder.
        query: The query stream, that is the decoder.
        projector: Queries to pixels.
        target: Smoothing of the image, or embedding it.
    """

    embedding: int
    content: int
    query: int
    projector: int
    target: int

    @property
    def forward(self) -> int:
        """A forward pass with its loss."""
        return self.embedding + self._learnt + self.target

    @property
    def step(self) -> int:
        """A training step: forward and backward, the optimiser left out.

        Backward costs twice the forward, once for the inputs and once for the weights.
        Images need no gradient, and the target none at all. What activation
        checkpointing computes again is not counted.
        """
        return 2 * self.embedding + 3 * self._learnt + self.target

    @property
    def _learnt(self) -> int:
        return self.content + self.query + self.projector


def saim_flops(model: SAIM) -> Flops:
    """Counts the operations of a pretraining model per image, from its sizes alone.

    Args:
        model: Any SAIM model; its weights may be on the meta device.

    Returns:
        Whole numbers; the mean over the model's scopes, if it has several.
    """
    scopes = model.order_sampler.scopes
    weights = [scope.weight for scope in scopes]
    each = [astuple(_scope_flops(model, scope)) for scope in scopes]
    sums = (sum(map(operator.mul, weights, part)) for part in zip(*each, strict=True))
    return Flops(*(round(part / sum(weights)) for part in sums))


def _scope_flops(model: SAIM, scope: Scope) -> Flops:
    family, start, asked = model.order_sampler, scope.allowed.start, scope.asked
    order = torch.arange(family.num_patches, device="cpu")[None]
    ranks: range | torch.Tensor = scope.allowed
    if asked < len(scope.allowed):
        ranks = torch.arange(start, start + asked, device="cpu")
    plan = family.plan_of(order, ranks, scope.read, scope.prefix, start)
    tokens = plan.extra_tokens + plan.num_read
    embedding = model.backbone.patch_embed.projection.weight.numel()
    return Flops(
        embedding=2 * plan.num_read * embedding,
        content=sum(
            _layer(x, tokens, tokens, tokens**2 + plan.content_mask.prefix**2)
            for x in model.backbone.layers
        ),
        query=_query_flops(model, plan, asked),
        projector=_projector_flops(model.head.projector, asked),
        target=_target(model, embedding),
    )


def _query_flops(model: SAIM, plan: Plan, asked: int) -> int:
    neck, memory = model.neck, plan.memory_tokens
    mix = getattr(neck, "mix", None)
    mixing = mix.weight.numel() * memory * model.backbone.embed_dims if mix else 0
    if isinstance(neck, CrossMAENeck):
        each = [
            memory * _linears(x.kv)
            + asked * (_linears(x) - _linears(x.kv))
            + 2 * asked * memory * neck.out_dims
            for x in neck.layers
        ]
        return 2 * (mixing + sum(each))
    # Under a causal mask as many rows are scored as there are columns.
    scores = (memory if plan.memory_mask.is_causal else asked) * memory
    decoder = neck.layers_of(model.backbone.layers)
    layers = sum(_layer(x, asked, memory, scores) for x in decoder)
    if isinstance(neck, RandSACNeck):
        layers += sum(_attention(x, asked, asked, asked**2) for x in neck.self_layers)
    return 2 * mixing + layers


def _projector_flops(projector: Projector, asked: int) -> int:
    rows = asked // getattr(projector, "length", 1)
    layers = sum(_layer(x, asked, asked, asked**2) for x in projector.layers)
    return layers + 2 * rows * _linears(projector.to_pixels)


def _layer(layer: AttentionBlock, attending: int, attended: int, scores: int) -> int:
    """Attention of some tokens to others, and the feed-forward network."""
    attention = _attention(layer, attending, attended, scores)
    return attention + 2 * attending * _linears(layer.ffn)


def _attention(
    layer: AttentionBlock, attending: int, attended: int, scores: int
) -> int:
    width = layer.attn.embed_dims
    products = (2 * attending + 2 * attended) * width**2
    return 2 * (products + 2 * scores * width)


def _linears(module: nn.Module) -> int:
    """Multiply-adds per token of all linear layers of a module."""
    return sum(
        child.in_features * child.out_features
        for child in module.modules()
        if isinstance(child, nn.Linear)
    )


def _target(model: SAIM, embedding: int) -> int:
    """Embedding all patches, or a column and a row of taps at every value."""
    if isinstance(model, NEPA):
        return 2 * model.order_sampler.num_patches * embedding
    if not isinstance(model.head.blur, GaussianBlur):
        return 0
    height, width = model.backbone.img_size
    channels = model.backbone.patch_embed.projection.in_channels
    return 2 * channels * height * width * 2 * len(model.head.blur.taps)


def dino_flops(model: DINOPretraining, crops: Sequence[int]) -> Flops:
    """As :func:`saim_flops`, for DINO: all that the teacher computes is the target.

    ``crops`` are the sides of the crops of an image in pixels, the large ones first.
    """
    backbone, neck = model.backbone, model.neck
    projection = backbone.patch_embed.projection
    projector = 2 * (_linears(neck.mlp) + neck.prototypes.numel())
    embedding, content = [], []
    for side in crops:
        patches = math.prod(side // size for size in projection.kernel_size)
        tokens = backbone.num_extra_tokens + patches
        layers = (_layer(x, tokens, tokens, tokens**2) for x in backbone.layers)
        embedding.append(2 * patches * projection.weight.numel())
        content.append(sum(layers))
    target = LARGE_CROPS * projector
    target += sum(embedding[:LARGE_CROPS]) + sum(content[:LARGE_CROPS])
    return Flops(sum(embedding), sum(content), 0, len(crops) * projector, target)
