"""The encoder of any of our checkpoints, ready to be looked at."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models.utils import SelfSupDataPreprocessor
from torch import Tensor

from ..models import SAIMViT
from ..weights import CheckpointError, load_encoder, read_checkpoint
from ..weights.arch import infer_arch
from ..weights.files import weights_of
from ..weights.keymap import describe

#: For a bare encoder, which does not say how its images were normalised.
_IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


class Encoder(NamedTuple):
    """A frozen encoder and what normalises its images (BGR, 0 to 255)."""

    backbone: SAIMViT
    preprocessor: BaseDataPreprocessor


def build_encoder(
    checkpoint: str | Path,
    config: str | Path | None = None,
    num_heads: int | None = None,
) -> Encoder:
    """Builds the encoder of a checkpoint and loads it completely, or stops.

    Args:
        checkpoint: A checkpoint of pretraining or of a classifier, or a bare encoder.
        config: Config that it was trained with. By default the sizes are read off the
            tensors, and the number of heads and the normalisation off the config that
            MMEngine keeps in a checkpoint (which is read, not run).
        num_heads: Number of heads, where nothing else tells it.

    Returns:
        The encoder, without final norm, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the checkpoint is not of an encoder, or does not fit.
        ValueError: If the config has no ``SAIMViT``.
    """
    content = read_checkpoint(checkpoint)
    settings: Mapping[str, Any] = (
        Config.fromfile(config)
        if config
        else _parse_settings(content.get("meta", {}).get("cfg", ""))
    )
    if config:
        backbone = _build_from_config(settings, config)
    else:
        state = weights_of(content, checkpoint)
        backbone = _build_from_tensors(state, checkpoint, settings, num_heads)
    load_encoder(backbone, checkpoint)
    backbone.eval()
    return Encoder(backbone, _build_preprocessor(settings))


def _build_from_config(settings: Mapping[str, Any], path: str | Path) -> SAIMViT:
    options = dict(settings.get("model", {}).get("backbone", {}))
    if options.get("type") not in ("SAIMViT", "saim_mm.SAIMViT", "VisionTransformer"):
        raise ValueError(
            f"{path}: model.backbone is of type {options.get('type')!r}; give a config "
            "whose backbone is a SAIMViT, or none."
        )
    del options["type"]
    fixed = dict(final_norm=False, out_type="raw", init_cfg=None)
    return SAIMViT(**{**options, **fixed})


def _build_from_tensors(
    state: Mapping[str, Tensor],
    path: str | Path,
    settings: Mapping[str, Any],
    num_heads: int | None,
) -> SAIMViT:
    prefix = next(
        (p for p in ("", "backbone.") if f"{p}layers.0.ln1.weight" in state), None
    )
    if prefix is None:
        raise CheckpointError(f"{path}: holds no encoder. {describe(state)}")
    arch = infer_arch(state, prefix, num_heads or _heads_in(settings))
    return SAIMViT(**{**arch.backbone, "final_norm": False, "out_type": "raw"})


def _heads_in(settings: Mapping[str, Any]) -> int | None:
    """The number of heads that a config names, directly or by its arch."""
    arch = settings.get("model", {}).get("backbone", {}).get("arch")
    if isinstance(arch, str):
        arch = SAIMViT.arch_zoo.get(arch)
    return arch["num_heads"] if arch else None


def _build_preprocessor(settings: Mapping[str, Any]) -> BaseDataPreprocessor:
    given = settings.get("data_preprocessor") or settings.get("model", {}).get(
        "data_preprocessor"
    )
    given = given or _IMAGENET
    return SelfSupDataPreprocessor(
        mean=given.get("mean"),
        std=given.get("std"),
        to_rgb=bool(given.get("to_rgb", True) or given.get("bgr_to_rgb")),
    )


def _parse_settings(text: str) -> dict[str, Any]:
    """Reads the config in a checkpoint without running it.

    MMEngine writes it as Python: assignments of literals and ``dict(...)`` calls.
    Whatever else there is, is left out.
    """
    settings: dict[str, Any] = {}
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                with suppress(ValueError, TypeError):
                    value = ast.literal_eval(_DictCalls().visit(node.value))
                    settings[node.targets[0].id] = value
    return settings


class _DictCalls(ast.NodeTransformer):
    """Makes a literal of ``dict(...)``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if node.args or getattr(node.func, "id", None) != "dict":
            return node
        keys: list[ast.expr | None] = [ast.Constant(k.arg) for k in node.keywords]
        return ast.Dict(keys, [k.value for k in node.keywords])
