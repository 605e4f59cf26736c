"""The authors' release as functions of its state dict, written from its description.

Slow and plain, in raster order with dense masks and separate query, key and value: the
other side of the certificates and of the tests of :mod:`conversions`.

Symbols: B images, N patches, D channels, L attending tokens, S attended ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.keymap import count_layers

State = Mapping[str, Tensor]


def release_pretraining(
    state: State,
    images: Tensor,
    noise: Tensor,
    num_heads: int,
    decoder_depth: int,
) -> dict[str, Tensor]:
    """Runs the release's pretraining model, with normalised pixels and L2 loss.

    Args:
        state: A pretraining state dict of the release.
        images: (B, C, H, W), normalised.
        noise: (B, N) without ties; a patch with less noise comes earlier.
        num_heads: Number of attention heads.
        decoder_depth: Number of query layers that run. A decoder that shares the
            encoder's layers has all of them in the file, and may run the first few.

    Returns:
        ``encoder features`` (B, 1 + N, D) of the last layer, ``predicted patches``
        (B, N, p*p*C) in raster order and the ``loss``, a scalar.
    """
    h = _embed(state, images)
    g = state["pos_embed"].expand(len(images), -1, -1)
    # The class token comes before everything; nothing else is visible to it.
    noise = torch.cat([noise.new_full((len(noise), 1), -1.0), noise], dim=1)
    mask_h = mask_of(noise[:, :, None] >= noise[:, None, :])
    sees = noise[:, :, None] > noise[:, None, :]
    sees[:, 0, 0] = True  # the query of the class token; its prediction is dropped
    mask_g = mask_of(sees)

    depth = count_layers(state, "blocks.")
    step = depth // decoder_depth
    for i in range(depth):
        h = _block(state, f"blocks.{i}.", h, h, num_heads, mask_h)
        if (i + 1) % step == 0:
            g = _block(state, f"query_blocks.{i // step}.", g, h, num_heads, mask_g)
    g = norm(state, "norm", g)[:, 1:]
    predict = mlp if "prediction_head.fc1.weight" in state else linear
    predictions = predict(state, "prediction_head", g)
    loss = F.mse_loss(predictions, _target(state, images))
    return {"encoder features": h, "predicted patches": predictions, "loss": loss}


def release_classifier(
    state: State, images: Tensor, num_heads: int
) -> tuple[Tensor, Tensor]:
    """Runs the release's classifier, fine-tuned or a linear probe.

    Returns:
        Features (B, D) after the last norm of the ViT, and logits (B, classes).
    """
    x = _embed(state, images)
    for i in range(count_layers(state, "blocks.")):
        x = _block(state, f"blocks.{i}.", x, x, num_heads)
    if "fc_norm.weight" in state:
        features = norm(state, "fc_norm", x[:, 1:].mean(dim=1))
    else:
        features = norm(state, "norm", x)[:, 0]
    if "head.0.running_mean" not in state:
        return features, linear(state, "head", features)
    # In a linear probe a batch norm without weights comes before the last layer.
    mean, var = state["head.0.running_mean"], state["head.0.running_var"]
    return features, linear(state, "head.1", (features - mean) / (var + 1e-6).sqrt())


def _embed(state: State, images: Tensor) -> Tensor:
    """Class token and patches with their positions: (B, 1 + N, D)."""
    x = project(state, "patch_embed.proj", images).flatten(2).mT
    cls = state["cls_token"].expand(len(x), -1, -1)
    return torch.cat([cls, x], dim=1) + state["pos_embed"]


def _block(
    state: State,
    name: str,
    x: Tensor,
    memory: Tensor,
    num_heads: int,
    mask: Tensor | float = 0.0,
) -> Tensor:
    """One pre-norm block; ``norm1`` is applied to the tokens and to the memory."""
    normed, memory = (norm(state, f"{name}norm1", t) for t in (x, memory))
    q, k, v = (
        heads(linear(state, f"{name}attn.{kind}", t), num_heads)
        for kind, t in (("q", normed), ("k", memory), ("v", memory))
    )
    x = x + linear(state, f"{name}attn.proj", attend(q, k, v, mask))
    return x + mlp(state, f"{name}mlp", norm(state, f"{name}norm2", x))


def _target(state: State, images: Tensor) -> Tensor:
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


def mask_of(sees: Tensor) -> Tensor:
    """Boolean (B, L, S) -> additive (B, 1, L, S)."""
    return torch.zeros(sees.shape).masked_fill(~sees, -math.inf)[:, None]


def heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, L, D) -> (B, H, L, D/H)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | float = 0.0) -> Tensor:
    """Heads of queries (B, H, L, D/H), of keys and values -> (B, L, D)."""
    scores = q @ k.mT / math.sqrt(q.shape[-1]) + mask
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def project(state: State, name: str, images: Tensor) -> Tensor:
    """Images (B, C, H, W) -> patches (B, D, rows, columns)."""
    weight = state[f"{name}.weight"]
    return F.conv2d(images, weight, state[f"{name}.bias"], weight.shape[2:])


def norm(state: State, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm, with what the state has of weight and bias."""
    weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps=eps)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """A linear layer, with the bias that the state has."""
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    """Two layers with GELU between them."""
    return linear(state, f"{name}.fc2", F.gelu(linear(state, f"{name}.fc1", x)))
