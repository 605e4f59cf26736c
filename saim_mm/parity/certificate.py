"""Certificates: both sides of a conversion are built, run and compared.

A map of keys may be complete and still be wrong (query and key exchanged, another
epsilon in the norms). So each conversion also runs the two models on seeded images and
reports the largest absolute difference of their features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import Tensor, nn

from ..models import SAIM, RotaryViT, SAIMViT
from ..models.plan import unsort_tokens
from ..weights.arch import Arch, infer_arch
from ..weights.blur import Smoothing
from ..weights.files import CheckpointError, under
from ..weights.keymap import Conversion, count_layers
from ..weights.position import with_note
from ..weights.rivals import NEPAConfig
from .release_model import release_classifier, release_pretraining
from .rival_models import aim_features, nepa_features

#: Largest absolute difference of features that passes.
TOLERANCE = 1e-4
_IMAGES, _SEED = 2, 0


@dataclass(frozen=True)
class Certificate:
    """What became of every key, and how far the two sides are apart.

    A conversion with missing or unexpected keys raises, so a certificate has none.

    Attributes:
        conversion: The conversion.
        differences: Largest absolute difference by what was compared.
        sides: The two models that were run.
        arch: The sizes they were built with.
    """

    conversion: Conversion
    differences: dict[str, float]
    sides: tuple[str, str]
    arch: Arch

    @property
    def passed(self) -> bool:
        """Whether all differences are within :data:`TOLERANCE`; NaN is not."""
        return all(value <= TOLERANCE for value in self.differences.values())

    def __str__(self) -> str:
        used, dropped = self.conversion.used, self.conversion.dropped
        lines = [
            f"arch: {self.arch}",
            f"keys used: {len(used)} of {len(used) + sum(map(len, dropped.values()))}",
            *(f"keys dropped, {name}: {len(keys)}" for name, keys in dropped.items()),
            "keys missing: 0\nkeys unexpected: 0",
            f"compared: {self.sides[0]} with {self.sides[1]}, {_IMAGES} images, "
            f"seed {_SEED}, float32",
            *(
                f"largest absolute difference, {name}: {value:.2e}"
                for name, value in self.differences.items()
            ),
            f"certificate: {'PASSED' if self.passed else 'FAILED'} "
            f"(limit {TOLERANCE:.0e})",
        ]
        return "\n".join(lines)


def certify_pretraining(
    conversion: Conversion,
    release: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    smoothing: Smoothing | None,
    num_heads: int | None = None,
) -> Certificate:
    """Compares the release's pretraining model with :class:`SAIM`."""
    arch = infer_arch(ours, "backbone.", num_heads)
    images = _seeded_images(arch)
    generator = torch.Generator().manual_seed(_SEED)
    count = math.prod(arch.grid)
    noise = torch.stack([torch.randperm(count, generator=generator) for _ in images])
    order = noise.argsort(dim=1)
    own_layers = count_layers(ours, "neck.layers.")
    depth = own_layers or arch.num_layers
    linear = "head.projector.to_pixels.weight" in ours
    model = SAIM(
        backbone=dict(type="SAIMViT", out_type="raw", **arch.backbone),
        neck=dict(type="SAIMNeck", depth=depth, tied_decoder=not own_layers),
        head=dict(
            type="SAIMHead",
            projector="linear" if linear else "mlp",
            smoothing=smoothing and dict(kernel_size=smoothing[0], sigma=smoothing[1]),
        ),
    )
    _load_all(model, ours)
    theirs = release_pretraining(release, images, noise, arch.num_heads, depth)
    content = model.backbone(images, model.order_sampler.plan_of(order)).states[-1]
    patches = unsort_tokens(content[:, 1:], order)
    found = {
        "encoder features": torch.cat([content[:, :1], patches], dim=1),
        "predicted patches": model.predict_patches(images, order),
        "loss": model.loss(images, order=order)["loss"],
    }
    pairs = {name: (theirs[name], tensor) for name, tensor in found.items()}
    return _compare(conversion, pairs, ("the release", "SAIM"), arch)


def certify_encoder(
    conversion: Conversion,
    pretrained: Mapping[str, Tensor],
    prefix: str = "",
    num_heads: int | None = None,
) -> Certificate:
    """Compares the encoder in a pretraining checkpoint with a plain ViT."""
    arch = infer_arch(conversion.state_dict, prefix, num_heads)
    backbone = under(pretrained, "backbone.")
    if arch.final_norm:
        for kind, tensor in under(pretrained, "neck.norm.").items():
            backbone[f"ln1.{kind}"] = tensor
    images = _seeded_images(arch)
    saim_vit = _load_all(SAIMViT(out_type="raw", **arch.backbone), backbone)
    encoder = under(conversion.state_dict, prefix)
    pairs = {"features": (saim_vit(images)[-1], _run_encoder(encoder, arch, images))}
    return _compare(conversion, pairs, ("SAIMViT", "VisionTransformer"), arch)


def certify_timm(
    conversion: Conversion,
    encoder: Mapping[str, Tensor],
    timm: Mapping[str, Tensor],
    num_heads: int | None = None,
) -> Certificate:
    """Compares mmpretrain's ``VisionTransformer`` with timm's, DINO's too."""
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    arch = infer_arch(encoder, num_heads=num_heads)
    model = TimmViT(
        img_size=arch.img_size,
        patch_size=arch.patch_size,
        in_chans=arch.in_channels,
        embed_dim=arch.embed_dims,
        depth=arch.num_layers,
        num_heads=arch.num_heads,
        mlp_ratio=arch.feedforward_channels / arch.embed_dims,
        num_classes=0,
        final_norm=arch.final_norm,
    )
    timm = {key.removeprefix("backbone."): t for key, t in timm.items()}
    timm = {key: t for key, t in timm.items() if not key.startswith("head.")}
    images = _seeded_images(arch)
    theirs = _load_all(model, timm).forward_features(images)  # type: ignore[operator]
    pairs = {"features": (_run_encoder(encoder, arch, images), theirs)}
    return _compare(conversion, pairs, ("VisionTransformer", "timm"), arch)


def certify_hf(
    conversion: Conversion, encoder: Mapping[str, Tensor], folder: str | Path
) -> Certificate:
    """Compares ``VisionTransformer`` with what transformers loads from a folder."""
    from transformers import ViTModel

    # In float32 whatever the file has; attention is written out to be exact.
    model, info = ViTModel.from_pretrained(
        folder,
        add_pooling_layer=False,
        output_loading_info=True,
        attn_implementation="eager",
    )
    model = model.float().eval().requires_grad_(False)
    wrong = {
        kind: [key for key in keys if kind != "unexpected_keys" or "pooler" not in key]
        for kind, keys in info.items()
    }
    if any(wrong.values()):
        raise CheckpointError(
            f"{folder}: transformers loads it incompletely: {wrong}; the key map does "
            "not fit the installed version."
        )
    config = model.config
    sizes = (config.image_size, config.patch_size)  # of squares, or by side
    image, patch = ((n, n) if isinstance(n, int) else n for n in sizes)
    grid = (image[0] // patch[0], image[1] // patch[1])
    noted = with_note(dict(encoder), grid)
    arch = infer_arch(noted, num_heads=config.num_attention_heads)
    images = _seeded_images(arch)
    theirs = model(images).last_hidden_state
    pairs = {"features": (_run_encoder(encoder, arch, images), theirs)}
    sides = ("VisionTransformer", "transformers' ViTModel")
    return _compare(conversion, pairs, sides, arch)


def certify_classifier(
    conversion: Conversion,
    release: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    num_heads: int | None = None,
) -> Certificate:
    """Compares the release's classifier with mmpretrain's ``ImageClassifier``."""
    arch = infer_arch(ours, "backbone.", num_heads)
    plain = "head.fc.weight" in ours
    head = "LinearClsHead" if plain else "VisionTransformerClsHead"
    classes = len(ours["head.fc.weight" if plain else "head.layers.head.weight"])
    out_type = "cls_token" if arch.final_norm else "avg_featmap"
    probe = dict(type="ClsBatchNormNeck", input_features=arch.embed_dims)
    model = MMPRETRAIN_MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="VisionTransformer", out_type=out_type, **arch.backbone),
            neck=probe if "neck.bn.running_mean" in ours else None,
            head=dict(type=head, num_classes=classes, in_channels=arch.embed_dims),
        )
    )
    _load_all(model, ours)
    images = _seeded_images(arch)
    features, logits = release_classifier(release, images, arch.num_heads)
    pairs = {
        "features": (features, model.extract_feat(images, "backbone")[-1]),
        "logits": (logits, model(images)),
    }
    return _compare(conversion, pairs, ("the release", "ImageClassifier"), arch)


def certify_aim(
    conversion: Conversion, aim: Mapping[str, Tensor], num_heads: int | None = None
) -> Certificate:
    """Compares AIM's trunk with :class:`SAIMViT`."""
    ours = conversion.state_dict
    arch = infer_arch(ours, num_heads=num_heads)
    norm = dict(norm_cfg=dict(type="LN", eps=1e-6))
    model = SAIMViT(out_type="raw", patch_cfg=norm, **arch.backbone)
    _load_all(model, ours)
    images = _seeded_images(arch)
    pairs = {"features": (aim_features(aim, images, arch.num_heads), model(images)[-1])}
    return _compare(conversion, pairs, ("AIM's release", "SAIMViT"), arch)


def certify_nepa(
    conversion: Conversion, nepa: Mapping[str, Tensor], config: NEPAConfig
) -> Certificate:
    """Compares NEPA's model with :class:`RotaryViT`, with its mask and without."""
    ours = conversion.state_dict
    arch = infer_arch(ours, num_heads=config.num_heads)
    images = _seeded_images(arch)
    pairs = {}
    for visible in ("causal", "all"):
        model = RotaryViT(
            out_type="raw",
            visible=visible,
            rope_theta=config.theta,
            qk_norm=config.qk_norm,
            layer_scale_init_value=1e-5,
            norm_cfg=dict(type="LN", eps=config.eps),
            layer_cfgs=dict(ffn_type="swiglu_fused" if config.gated else "origin"),
            **arch.backbone,
        )
        theirs = nepa_features(nepa, images, config, visible == "causal")
        features = _load_all(model, ours)(images)[-1]
        pairs[f"features, visible={visible!r}"] = (theirs, features)
    return _compare(conversion, pairs, ("NEPA's release", "RotaryViT"), arch)


def _run_encoder(encoder: Mapping[str, Tensor], arch: Arch, images: Tensor) -> Tensor:
    """All output tokens (B, 1 + N, D) of mmpretrain's plain ViT."""
    model = VisionTransformer(out_type="raw", **arch.backbone)
    return _load_all(model, encoder)(images)[-1]


def _load_all(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Loads all weights, frozen; the preprocessor's numbers have no place here."""
    ours = {k: t for k, t in state.items() if not k.startswith("data_preprocessor.")}
    model.load_state_dict(ours, strict=True)
    model.eval()  # not chained: that of mmpretrain's backbones returns None
    return model.requires_grad_(False)


def _seeded_images(arch: Arch) -> Tensor:
    """Seeded images (B, C, H, W)."""
    generator = torch.Generator().manual_seed(_SEED)
    shape = (_IMAGES, arch.in_channels, *arch.img_size)
    return torch.randn(shape, generator=generator)


def _compare(
    conversion: Conversion,
    pairs: Mapping[str, tuple[Tensor, Tensor]],
    sides: tuple[str, str],
    arch: Arch,
) -> Certificate:
    """The certificate of what both sides gave, by name."""
    found = {name: float((a - b).abs().max()) for name, (a, b) in pairs.items()}
    return Certificate(conversion, found, sides, arch)
