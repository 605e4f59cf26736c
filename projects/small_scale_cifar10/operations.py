"""Floating-point operations of a pretraining step, for one image of the batch.

Counted as :mod:`saim_mm.evaluation.flops` counts SAIM's family: a multiply-add is two,
only matrix products and convolutions count, the backward pass costs twice the forward,
and the embedding of pixels, which need no gradient, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from mmpretrain.models import MAE, SimMIM
from torch import nn

from saim_mm.evaluation.flops import saim_flops
from saim_mm.models import SAIM
from saim_mm.models.baselines.dino import DINOPretraining
from saim_mm.models.baselines.dino_head import LARGE_CROPS


def step_flops(model: nn.Module, local_crops: int = 0) -> int:
    """Operations of forward and backward pass; of several shapes, the mean.

    Args:
        model: One that :func:`models.model_config` configures.
        local_crops: DINO's crops of half the side, for each image.

    Raises:
        ValueError: If it is of another kind.
    """
    if isinstance(model, SAIM):
        return saim_flops(model).step
    if isinstance(model, MAE):
        return 2 * _mae(model)
    if isinstance(model, SimMIM):
        return 2 * _simmim(model)
    if isinstance(model, DINOPretraining):
        return 2 * _dino(model, local_crops)
    raise ValueError(
        f"{type(model).__name__} has no count of its operations; add one to "
        "projects/small_scale_cifar10/operations.py."
    )


def _mae(model: MAE) -> int:
    """All patches are embedded, a part is encoded, all are decoded."""
    encoder, decoder = model.backbone, model.neck
    total = prod(encoder.patch_resolution)
    kept = 1 + int(total * (1 - encoder.mask_ratio))
    learnt = (
        _layers(encoder.layers, kept)
        + kept * _weights(decoder.decoder_embed)
        + _layers(decoder.decoder_blocks, 1 + total)
        + (1 + total) * _weights(decoder.decoder_pred)
    )
    return 2 * total * _weights(encoder.patch_embed) + 3 * learnt


def _simmim(model: SimMIM) -> int:
    encoder = model.backbone
    total = prod(encoder.patch_resolution)
    learnt = _layers(encoder.layers, 1 + total) + total * _weights(model.neck)
    return 2 * total * _weights(encoder.patch_embed) + 3 * learnt


def _dino(model: DINOPretraining, local_crops: int) -> int:
    """The student's crops there and back, the teacher's large ones there."""
    encoder, projector = model.backbone, model.neck
    total = prod(encoder.patch_resolution)
    embedding, head = _weights(encoder.patch_embed), _weights(projector.mlp)
    prototypes = projector.prototypes.numel()

    def learnt(patches: int) -> int:
        return _layers(encoder.layers, 1 + patches) + head + prototypes

    small, crops = total // 4, LARGE_CROPS + local_crops
    large = LARGE_CROPS * (3 * total * embedding + 4 * learnt(total))
    local = local_crops * (2 * small * embedding + 3 * learnt(small))
    return large + local + 2 * LARGE_CROPS * crops * len(projector.prototypes)


def _layers(layers: Iterable[nn.Module], tokens: int) -> int:
    """Multiply-adds of ViT layers whose tokens all see each other."""
    return sum(
        tokens * _weights(layer) + 2 * tokens**2 * layer.attn.embed_dims
        for layer in layers
    )


def _weights(module: nn.Module) -> int:
    """Multiply-adds for a token, or a patch."""
    kinds = (nn.Linear, nn.Conv2d)
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, kinds))
