"""Every config: parses, types resolve, keys are read, name and values agree, trains."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import Runner
from mmpretrain import registry as mmpretrain_registry
from mmpretrain.registry import MODELS

ROOT = Path(__file__).parents[1] / "configs"
ALL = sorted(p for p in ROOT.rglob("*.py") if "_base_" not in p.parts)
PAPER = [p for p in ALL if re.fullmatch(r"saim_vit-[sblh]_\d+e_in1k", p.stem)]

#: What Runner.from_cfg reads besides the arguments of Runner, and what tools read.
RUNNER_KEYS = set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}
OTHER_KEYS = {
    "custom_imports",  # Config
    "data_preprocessor",  # Runner.from_cfg
    "model_wrapper_cfg",  # Runner.wrap_model
    "find_unused_parameters",
    "sync_bn",
    "test_pipeline",  # inference of mmdet and mmseg
    "vis_backends",  # named parts of other keys, OpenMMLab's custom
}

#: Arch letter -> width, layers, heads, patch, decoder depth.
ARCHS = {
    "s": (384, 12, 6, 16, 12),
    "b": (768, 12, 12, 16, 12),
    "l": (1024, 24, 16, 16, 24),
    "h": (1280, 32, 16, 14, 32),
}


def config_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parts(node: Any, key: str = "") -> Iterator[tuple[str, ConfigDict]]:
    """Every dict with a ``type``, with the key that leads to it."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield key, node
        for name, value in node.items():
            yield from parts(value, name)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from parts(value, key)


def resolves(name: str, scope: str) -> bool:
    """Whether a bare type name means something in a scope's registries."""
    nodes = vars(pytest.importorskip(f"{scope}.registry")).values()
    registries = [node for node in nodes if isinstance(node, Registry)]
    return any(registry.get(name) for registry in registries)


@pytest.mark.parametrize("path", ALL, ids=config_id)
def test_only_keys_that_somebody_reads(path: Path) -> None:
    cfg = Config.fromfile(path, import_custom_modules=False)
    assert set(cfg) - RUNNER_KEYS - OTHER_KEYS == set()


@pytest.mark.parametrize("path", ALL, ids=config_id)
def test_types_resolve(path: Path) -> None:
    cfg = Config.fromfile(path, import_custom_modules=False)
    if cfg.default_scope != "mmpretrain":
        pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
        pytest.importorskip(cfg.default_scope)
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        missing = {part["type"] for _, part in parts(cfg.to_dict())}
        missing = {name for name in missing if not resolves(name, cfg.default_scope)}
    # Looked up by name: collate functions in MMEngine, ops in mmcv.
    assert missing <= {"pseudo_collate", "stack_samples", "RoIAlign", "nms"}


@pytest.mark.parametrize("path", ALL, ids=config_id)
def test_every_training_resumes_exactly(path: Path) -> None:
    cfg = Config.fromfile(path, import_custom_modules=False)
    if not cfg.get("train_cfg"):
        return
    assert cfg.train_cfg.type in ("ExactEpochLoop", "ExactIterLoop")
    loader = cfg.train_dataloader
    assert loader.sampler.type == "ExactSampler"
    # Full batches only: their number must not depend on the number of processes.
    assert loader.sampler.get("round_up", True) != loader.get("drop_last", False)
    assert cfg.default_hooks.exact_resume.type == "ExactResumeHook"
    if loader.dataset.type != "UnlabeledImages":
        assert loader.dataset.pipeline[0].type == "SeedSample"


@pytest.mark.parametrize("path", PAPER, ids=config_id)
def test_recipe_is_table_6(path: Path) -> None:
    letter, epochs = re.fullmatch(r"saim_vit-(.)_(\d+)e_in1k", path.stem).groups()
    cfg = Config.fromfile(path)
    assert cfg.train_cfg == dict(type="ExactEpochLoop", max_epochs=int(epochs))
    assert cfg.train_dataloader.batch_size * 32 == 2048
    assert cfg.auto_scale_lr.base_batch_size == 2048
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.lr == pytest.approx(1.6e-3)
    assert tuple(optimizer.betas) == (0.9, 0.95)
    assert optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    assert "clip_grad" not in cfg.optim_wrapper
    pipeline = {t["type"]: t for t in cfg.train_dataloader.dataset.pipeline}
    assert list(pipeline) == [
        "LoadRandomResizedCrop", "PackInputs"
    ]  # fmt: skip
    crop = pipeline["LoadRandomResizedCrop"]
    assert tuple(crop.crop_ratio_range) == (0.67, 1.0)
    assert tuple(crop.aspect_ratio_range) == (3 / 4, 4 / 3)
    assert crop.flip_prob == 0.5

    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    width, layers, heads, patch, depth = ARCHS[letter]
    backbone = model.backbone
    assert (backbone.embed_dims, backbone.num_layers) == (width, layers)
    assert backbone.arch_settings["num_heads"] == heads
    assert backbone.patch_embed.projection.kernel_size == (patch, patch)
    assert len(model.neck.layers) == depth
    assert model.order_sampler.kind == "stochastic"
    assert len(model.head.blur.taps) == 9
    rates = [m.drop_prob for m in model.modules() if hasattr(m, "drop_prob")]
    assert not any(rates)  # no drop path


def test_vit_b_has_the_parameters_of_the_release() -> None:
    cfg = Config.fromfile(ROOT / "saim/saim_vit-b_800e_in1k.py")
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(175.6, abs=0.05)


@pytest.mark.parametrize("epochs", [300, 800, 1600])
def test_schedule_is_linear_warm_up_then_half_cosine_to_zero(epochs: int) -> None:
    """Every iteration of the rate against the closed form that the release uses."""
    cfg = Config.fromfile(ROOT / f"saim/saim_vit-b_{epochs}e_in1k.py")
    length = 5  # iterations per epoch
    model = torch.nn.Linear(2, 2)
    cfg.optim_wrapper.type = "OptimWrapper"
    cfg.optim_wrapper.pop("loss_scale")
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    schedulers = []
    for scheduler in cfg.param_scheduler:
        scheduler.setdefault("end", epochs)  # as Runner does
        kind = mmpretrain_registry.PARAM_SCHEDULERS.get(scheduler.pop("type"))
        assert scheduler.pop("convert_to_iter_based")
        schedulers.append(
            kind.build_iter_from_epoch(wrapper, **scheduler, epoch_length=length)
        )
    peak = 2e-4 * 2048 / 256
    for iteration in range(epochs * length):
        epoch = iteration / length
        expected = peak * epoch / 30
        if epoch >= 30:
            progress = (epoch - 30) / (epochs - 30)
            expected = peak * 0.5 * (1 + math.cos(math.pi * progress))
        (rate,) = set(wrapper.get_lr()["lr"])
        # MMEngine ends the warm-up one iteration early: 1 in 30 epochs' worth.
        assert rate == pytest.approx(expected, abs=1.01 * peak / (30 * length))
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rate < 1e-5
