"""The authors' release as functions of its state dict, written from its description.

Slow and plain, in raster order with dense masks and separate query, key and value: the
other side of the certificates and of the tests of :mod:`conversions`.

Symbols: B images, N patches, D channels, L attending tokens, S attended ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.keymap import count_layers


@dataclass(frozen=True)
class ReleaseOutputs:
    """What one forward of pretraining gives.

    Attributes:
        content: Output of the last encoder layer (B, 1 + N, D).
        predictions: (B, N, p*p*C), in raster order.
        loss: Scalar.
    """

    content: Tensor
    predictions: Tensor
    loss: Tensor


def release_pretraining(
    state: Mapping[str, Tensor],
    images: Tensor,
    noise: Tensor,
    num_heads: int,
    decoder_depth: int,
) -> ReleaseOutputs:
    """Runs the release's pretraining model, with normalised pixels and L2 loss.

    Args:
        state: A pretraining state dict of the release.
        images: (B, C, H, W), normalised.
        noise: (B, N) without ties; a patch with less noise comes earlier.
        num_heads: Number of attention heads.
        decoder_depth: Number of query layers that run. A decoder that shares the
            encoder's layers has all of them in the file, and may run the first few.
    """
    h = _embed(state, images)
    g = state["pos_embed"].expand(len(images), -1, -1)
    # The class token comes before everything; nothing else is visible to it.
    noise = torch.cat([noise.new_full((len(noise), 1), -1.0), noise], dim=1)
    mask_h = _mask(noise[:, :, None] >= noise[:, None, :])
    sees = noise[:, :, None] > noise[:, None, :]
    sees[:, 0, 0] = True  # the query of the class token; its prediction is dropped
    mask_g = _mask(sees)

    depth = count_layers(state, "blocks.")
    step = depth // decoder_depth
    for i in range(depth):
        h = _block(state, f"blocks.{i}.", h, h, num_heads, mask_h)
        if (i + 1) % step == 0:
            g = _block(state, f"query_blocks.{i // step}.", g, h, num_heads, mask_g)
    predictions = _predict(state, _norm(state, "norm", g))[:, 1:]
    target = _target(state, images)
    return ReleaseOutputs(h, predictions, F.mse_loss(predictions, target))


def release_classifier(
    state: Mapping[str, Tensor], images: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Runs the release's classifier, fine-tuned or a linear probe.

    Returns:
        Features (B, D) after the last norm of the ViT, and logits (B, classes).
    """
    x = _embed(state, images)
    for i in range(count_layers(state, "blocks.")):
        x = _block(state, f"blocks.{i}.", x, x, num_heads)
    if "fc_norm.weight" in state:
        features = _norm(state, "fc_norm", x[:, 1:].mean(dim=1))
    else:
        features = _norm(state, "norm", x)[:, 0]
    return features, _classify(state, features)


def _embed(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Class token and patches with their positions: (B, 1 + N, D)."""
    weight = state["patch_embed.proj.weight"]
    x = F.conv2d(images, weight, state["patch_embed.proj.bias"], weight.shape[2:])
    x = x.flatten(2).transpose(1, 2)
    cls = state["cls_token"].expand(len(x), -1, -1)
    return torch.cat([cls, x], dim=1) + state["pos_embed"]


def _block(
    state: Mapping[str, Tensor],
    name: str,
    x: Tensor,
    memory: Tensor,
    num_heads: int,
    mask: Tensor | float = 0.0,
) -> Tensor:
    """One pre-norm block; ``norm1`` is applied to the tokens and to the memory."""
    normed, memory = (_norm(state, f"{name}norm1", t) for t in (x, memory))
    q, k, v = (
        _linear(state, f"{name}attn.{kind}", t)
        .unflatten(-1, (num_heads, -1))
        .transpose(1, 2)
        for kind, t in (("q", normed), ("k", memory), ("v", memory))
    )
    score = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + mask
    mixed = (score.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    x = x + _linear(state, f"{name}attn.proj", mixed)
    return x + _mlp(state, f"{name}mlp", _norm(state, f"{name}norm2", x))


def _predict(state: Mapping[str, Tensor], g: Tensor) -> Tensor:
    if "prediction_head.fc1.weight" in state:
        return _mlp(state, "prediction_head", g)
    return _linear(state, "prediction_head", g)


def _classify(state: Mapping[str, Tensor], features: Tensor) -> Tensor:
    """The logits; in a linear probe a batch norm without weights comes first."""
    if "head.0.running_mean" not in state:
        return _linear(state, "head", features)
    mean, var = state["head.0.running_mean"], state["head.0.running_var"]
    return _linear(state, "head.1", (features - mean) / (var + 1e-6).sqrt())


def _target(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Blurred patches (B, N, p*p*C), laid out (row, column, channel), normalised."""
    channels = images.shape[1]
    kernel = state.get("gaussian_blur.weight")
    if kernel is not None:
        images = F.conv2d(
            images, kernel, padding=kernel.shape[-1] // 2, groups=channels
        )
    rows, columns = state["patch_embed.proj.weight"].shape[2:]
    # unfold gives (channel, row, column) within a patch.
    patches = F.unfold(images, (rows, columns), stride=(rows, columns))
    patches = patches.transpose(1, 2).unflatten(-1, (channels, -1))
    patches = patches.transpose(-2, -1).flatten(-2)
    var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()


def _mask(sees: Tensor) -> Tensor:
    """Boolean (B, L, S) -> additive (B, 1, L, S)."""
    return torch.zeros(sees.shape).masked_fill(~sees, -math.inf)[:, None]


def _norm(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)


def _linear(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _mlp(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return _linear(state, f"{name}.fc2", F.gelu(_linear(state, f"{name}.fc1", x)))
