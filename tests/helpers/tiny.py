"""Tiny models for the tests: every option of SAIM, a few thousand parameters."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

import saim_mm  # noqa: F401  (registers the models)
from saim_mm.models import SAIM, DINOPretraining

Size = tuple[int, int]
SMOOTHING = dict(kernel_size=9, sigma=1.0)
#: Fused attention on a CPU; before torch 2.2 under the name of the GPU's.
FLASH = "_scaled_dot_product_flash_attention_for_cpu"
if not hasattr(torch.ops.aten, FLASH):
    FLASH = FLASH.removesuffix("_for_cpu")


def tiny_backbone(
    image_size: Size = (8, 12),
    patch_size: Size = (4, 4),
    channels: int = 3,
    num_layers: int = 4,
    embed_dims: int = 16,
    num_heads: int = 2,
    **options: Any,
) -> dict[str, Any]:
    """Config of a small ``SAIMViT``; ``options`` are its other keywords."""
    return dict(
        arch=dict(
            embed_dims=embed_dims,
            num_layers=num_layers,
            num_heads=num_heads,
            feedforward_channels=2 * embed_dims,
        ),
        img_size=image_size,
        patch_size=patch_size,
        in_channels=channels,
        **{"type": "SAIMViT", "final_norm": False, "out_type": "raw", **options},
    )


def tiny_config(
    *,
    order: str = "stochastic",
    segment_size: Size | None = None,
    depth: int = 4,
    tied_decoder: bool = False,
    projector: str = "mlp",
    loss: str = "l2",
    norm_pix: bool = True,
    smoothing: dict[str, Any] | None = SMOOTHING,
    query_share: float = 1.0,
    reading: dict[str, Any] | None = None,
    neck: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    segment_order: str | dict[str, Any] = "random",
    **backbone: Any,
) -> dict[str, Any]:
    """Config of a small ``SAIM``: 2 x 3 patches, 4 layers, 16 channels.

    Args:
        order: As for ``SAIM``.
        segment_size: As for ``SAIM``.
        depth: As for ``SAIMNeck``.
        tied_decoder: As for ``SAIMNeck``.
        projector: As for ``SAIMHead``.
        loss: As for ``SAIMHead``.
        norm_pix: As for ``SAIMHead``.
        smoothing: As for ``SAIMHead``.
        query_share: As for ``SAIM``.
        reading: As for ``SAIM``.
        neck: What else the config of the neck has; with ``_delete_``, all of it.
        head: What else the config of the head has; with ``_delete_``, all of it.
        segment_order: As for ``SAIM``.
        **backbone: As for :func:`tiny_backbone`.

    Returns:
        A config that ``MODELS.build`` takes.
    """
    return dict(
        type="SAIM",
        backbone=tiny_backbone(**backbone),
        neck=_merge(
            dict(type="SAIMNeck", depth=depth, tied_decoder=tied_decoder), neck
        ),
        head=_merge(
            dict(
                type="SAIMHead",
                projector=projector,
                loss=loss,
                norm_pix=norm_pix,
                smoothing=smoothing,
            ),
            head,
        ),
        order=order,
        segment_size=segment_size,
        query_share=query_share,
        reading=reading,
        segment_order=segment_order,
    )


def _merge(base: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
    """As a config merges: ``_delete_`` leaves nothing of the base."""
    other = dict(other or {})
    return other if other.pop("_delete_", False) else {**base, **other}


def tiny_saim(*, seed: int = 0, **options: Any) -> SAIM:
    """Builds :func:`tiny_config` with every parameter randomised by the seed."""
    model = MODELS.build(tiny_config(**options))
    randomise(model, seed)
    return model


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draws all parameters anew, norms, biases and position embedding included.

    A fresh model has zero biases, unit norms and a near-uniform attention, where a
    wrong sign or a forgotten term would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m.weight for m in model.modules() if isinstance(m, nn.LayerNorm)]
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if any(parameter is weight for weight in norms):
            parameter.copy_(1 + 0.3 * noise)
        elif parameter.ndim in (2, 4):  # linear and convolution: keeps the scale
            parameter.copy_(noise * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(0.5 * noise)


def tiny_images(model: SAIM, batch_size: int, seed: int = 0) -> Tensor:
    """Normal noise (B, C, H, W) in the size that the model was built for."""
    backbone = model.backbone
    shape = (backbone.patch_embed.projection.in_channels, *backbone.img_size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, *shape, generator=generator)


def step_of(model: SAIM, order: Tensor) -> Tensor:
    """The step (B, N), in raster order, at which each patch is predicted.

    Written from the definition: patches of one segment share a step, the step of the
    first of them. ``order`` is (B, N).
    """
    step = order.argsort(dim=1)
    if model.order_sampler.kind != "segments":
        return step
    length = model.order_sampler.segment_length
    return step // length * length


def predict(model: SAIM, images: Tensor, order: Tensor) -> Tensor:
    """Sorted predictions (B, N, p*p*C), like ``predict_patches`` with gradients."""
    return model.predict_asked(images, model.order_sampler.plan_of(order))


def relative(actual: Tensor, expected: Tensor) -> float:
    """Norm of the deviation, in units of the norm of the expected tensor."""
    return ((actual - expected).norm() / expected.norm()).item()


def tiny_dino(**backbone: Any) -> DINOPretraining:
    """Builds a small ``DINOPretraining``: 4 x 4 patches, 2 layers, 10 prototypes."""
    sizes = dict(hidden_channels=12, bottleneck_channels=8, out_channels=10)
    encoder = dict(
        type="VisionTransformer",
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=16,
        patch_size=4,
        drop_path_rate=0.3,
    )
    model = MODELS.build(
        dict(
            type="DINOPretraining",
            backbone={**encoder, **backbone},
            neck=dict(type="DINOProjector", in_channels=16, **sizes),
            head=dict(type="DINOHead", out_channels=10),
        )
    )
    model.init_weights()
    return model
