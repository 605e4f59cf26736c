"""SAIM as the paper writes it: slow, in raster order, with dense masks.

The yardstick for :mod:`saim_mm.models`. It shares the parameters of a built model and
nothing else: separate query, key and value products, attention written out, one float
mask (B, L, L) per stream, the memory normed in every layer. Read it beside Algorithm 1.

Symbols: B images, N patches, D channels; ``step`` (B, N) holds the step at which each
patch (in raster order) is predicted, the paper's noise after ranking. Patches with the
same step are predicted together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..models import SAIM, SAIMHead
from ..models.layers import AttentionBlock
from ..models.saim_head import GaussianBlur


def reference_loss(model: SAIM, images: Tensor, step: Tensor) -> Tensor:
    """The loss of Eq. 7 for given steps; gradients reach the model's parameters.

    Args:
        model: Any SAIM model.
        images: (B, C, H, W), after the data preprocessor.
        step: (B, N), long.

    Returns:
        Scalar.
    """
    prediction = reference_predictions(model, images, step)
    target = reference_target(model.head, images)
    error = prediction - target
    return (error.abs() if model.head.loss_kind == "l1" else error.square()).mean()


def reference_predictions(model: SAIM, images: Tensor, step: Tensor) -> Tensor:
    """Predictions (B, N, p*p*C), in raster order."""
    backbone, neck, head = model.backbone, model.neck, model.head
    patches = backbone.patch_embed.projection(images).flatten(2).transpose(1, 2)
    cls = backbone.cls_token.expand(len(images), -1, -1)
    h = torch.cat([cls, patches], dim=1) + backbone.pos_embed
    g = backbone.pos_embed[:, 1:].expand(len(images), -1, -1)

    # The class token comes before everything; a mask row is a token that looks.
    step_h = torch.cat([step.new_full((len(step), 1), -1), step], dim=1)
    mask_h = _additive(step_h[:, :, None] >= step_h[:, None, :])
    mask_g = _additive(step[:, :, None] > step_h[:, None, :])
    mask_gg = _additive(step[:, :, None] >= step[:, None, :])

    every = len(backbone.layers) // neck.depth if neck.depth else 0
    for i, layer in enumerate(backbone.layers):
        h = _block(layer, h, h, mask_h)
        if every and (i + 1) % every == 0:
            decoder = layer if neck.tied_decoder else neck.layers[i // every]
            g = _block(decoder, g, h, mask_g)
    if not every:
        # Raster order without decoder: the token before a patch predicts it.
        g = h[:, :-1]
    g = neck.norm(g)
    for layer in head.projector.layers:
        g = _block(layer, g, g, mask_gg)
    return head.projector.to_pixels(g)


def reference_target(head: SAIMHead, images: Tensor) -> Tensor:
    """Smoothed and normalised patches (B, N, p*p*C), one patch at a time."""
    if isinstance(head.blur, GaussianBlur):
        taps = head.blur.taps
        kernel = torch.outer(taps, taps).expand(images.shape[1], 1, -1, -1)
        images = nn.functional.conv2d(
            images, kernel, padding="same", groups=images.shape[1]
        )
    rows, columns = head.patch_size
    patches = []
    for top in range(0, images.shape[2], rows):
        for left in range(0, images.shape[3], columns):
            patch = images[:, :, top : top + rows, left : left + columns]
            x = patch.permute(0, 2, 3, 1).flatten(1)
            if head.norm_pix:
                std = (x.var(1, unbiased=True, keepdim=True) + 1e-6) ** 0.5
                x = (x - x.mean(1, keepdim=True)) / std
            patches.append(x)
    return torch.stack(patches, dim=1)


def _additive(sees: Tensor) -> Tensor:
    """Boolean mask -> float mask, 0 where it sees and -inf where not."""
    return torch.zeros(sees.shape, device=sees.device).masked_fill(~sees, -math.inf)


def _block(layer: AttentionBlock, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    """One pre-norm block: attention over the memory, then the MLP."""
    attn = layer.attn
    (w_q, w_k, w_v), (b_q, b_k, b_v) = attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3)
    normed = layer.ln1(memory)
    q = _heads(layer.ln1(x) @ w_q.T + b_q, attn.num_heads)
    k = _heads(normed @ w_k.T + b_k, attn.num_heads)
    v = _heads(normed @ w_v.T + b_v, attn.num_heads)
    score = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + mask[:, None]
    x = x + attn.proj((score.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return x + layer.ffn.layers(layer.ln2(x))


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, L, D) -> (B, H, L, D/H)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
