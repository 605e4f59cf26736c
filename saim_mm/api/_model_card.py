"""The model card beside an exported encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from ..evaluation.frozen_encoder import FrozenEncoder
from ..version import __version__

_TEMPLATE = Path(__file__).with_name("model_card.md")
#: Characters of a value that a file tells.
_LONGEST = 200
_WHAT = {
    "pt2": "A frozen image encoder as a program of torch.export.",
    "onnx": "A frozen image encoder in ONNX.",
    "timm": "The weights of an image encoder in timm's names.",
    "hf": "An image encoder as a folder for Hugging Face's `ViTModel`.",
    "official": "A checkpoint in the layout of SAIM's authors.",
}
_LOAD = {
    "pt2": """\
import torch
encode = torch.export.load($file).module()
features = encode(images)  # float32 (B, $channels, $rows, $columns)""",
    "onnx": """\
import onnxruntime
session = onnxruntime.InferenceSession($file)
(features,) = session.run(None, {"images": images})  # NumPy, float32""",
    "timm": """\
import safetensors.torch, timm
model = timm.models.VisionTransformer($timm)
model.load_state_dict(safetensors.torch.load_file($file))
tokens = model.eval().forward_features(images)""",
    "hf": """\
from transformers import ViTModel
model = ViTModel.from_pretrained($file, add_pooling_layer=False)
tokens = model(pixel_values=images).last_hidden_state  # after the final norm""",
    "official": """\
import torch
state = torch.load($file, weights_only=True)["model"]""",
}


def model_card(
    kind: str,
    out: Path,
    encoder: FrozenEncoder,
    facts: Mapping[str, str],
    certificate: object,
    settings: Mapping[str, Any],
) -> str:
    """Fills in the template.

    ``facts`` are ``input``, ``normalisation`` and ``output``, ``settings`` the config
    of the encoder as far as it is known. None of it becomes markup: it is escaped.
    """
    vit = encoder.backbone
    rows, columns = encoder.image_size
    channels = vit.patch_embed.projection.in_channels
    load = Template(_LOAD[kind]).substitute(
        file=json.dumps(out.name),
        channels=channels,
        rows=rows,
        columns=columns,
        timm=_timm(encoder) if kind == "timm" else "",
    )
    arch = vit.arch_settings
    return Template(_TEMPLATE.read_text()).substitute(
        title=escaped(out.name),
        what=_WHAT[kind],
        architecture=f"ViT, {arch['num_layers']} layers of {arch['embed_dims']} "
        f"channels, {arch['num_heads']} heads, patches of "
        f"{encoder.patch_size[0]} x {encoder.patch_size[1]}, for {channels} channels "
        f"of {rows} x {columns}",
        parameters=f"{sum(p.numel() for p in vit.parameters()):,} (encoder)",
        **facts,
        trained=_trained(settings),
        source=escaped(Path(encoder.source).name),
        version=__version__,
        load=load,
        certificate_about="Written only because these passed:",
        certificate=str(certificate),
    )


def escaped(text: str) -> str:
    """Text of a stranger as code in Markdown, in which nothing else is markup."""
    line = " ".join(text.split()) or "-"
    line = line if len(line) <= _LONGEST else line[:_LONGEST] + " ..."
    return "`" + line.replace("`", "'").replace("|", "/") + "`"


def _trained(settings: Mapping[str, Any]) -> str:
    """Data and length of training, as far as the config tells."""
    loader = _under(settings, "train_dataloader")
    dataset, train = _under(loader, "dataset"), _under(settings, "train_cfg")
    told = {
        "model": _under(settings, "model").get("type"),
        "dataset": dataset.get("type"),
        "data_root": dataset.get("data_root"),
        "epochs": train.get("max_epochs"),
        "iterations": train.get("max_iters"),
        "batch of a process": loader.get("batch_size"),
    }
    parts = [f"{name} {escaped(str(value))}" for name, value in told.items() if value]
    return "; ".join(parts) or "the checkpoint does not tell"


def _under(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = settings.get(name)
    return value if isinstance(value, Mapping) else {}


def _timm(encoder: FrozenEncoder) -> str:
    """Arguments of timm's ``VisionTransformer``."""
    vit = encoder.backbone
    arch = vit.arch_settings
    options = dict(
        img_size=encoder.image_size,
        patch_size=encoder.patch_size,
        in_chans=vit.patch_embed.projection.in_channels,
        embed_dim=arch["embed_dims"],
        depth=arch["num_layers"],
        num_heads=arch["num_heads"],
        mlp_ratio=arch["feedforward_channels"] / arch["embed_dims"],
        num_classes=0,
        final_norm=vit.final_norm,
    )
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
