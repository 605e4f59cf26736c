"""Detectors: what they train, what they keep in memory, what they refuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_recipes import (
    ALL,
    LI2021,
    NO_REL_POS,
    REPO,
    TINY_VIT,
    VITDET,
    batch,
    build,
    config_id,
    load,
    loss_of,
)
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.runner import turn_on_activation_checkpointing
from mmpretrain.models import VisionTransformer
from PIL import Image
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.detector import VARIANTS


@pytest.mark.parametrize("path", ALL, ids=config_id)
def test_trains_every_parameter_and_predicts(path: Path) -> None:
    model = build(load(path))
    loss = loss_of(model, batch())
    loss.backward()
    assert torch.isfinite(loss)
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without
    # Zero only where the other operand is still zero, as a fresh bias table is not.
    idle = [n for n, p in model.named_parameters() if not p.grad.any()]
    assert not [name for name in idle if "backbone" in name or "neck" in name]

    model.eval()
    with torch.no_grad():
        results = model.test_step(batch())
    assert len(results) == 2
    assert results[0].pred_instances.masks.shape[1:] == (128, 128)


@pytest.mark.parametrize("path", [LI2021, VITDET], ids=config_id)
@pytest.mark.parametrize("instances", [(0, 0), (0, 3)], ids=str)
def test_images_without_instances_are_no_error(
    path: Path, instances: tuple[int, ...]
) -> None:
    model = build(load(path))
    loss = loss_of(model, batch(instances))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(
        torch.isfinite(b).all() for b in model.buffers() if b.is_floating_point()
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", [LI2021, VITDET], ids=config_id)
def test_mmdets_own_inference_runs_in_one_process(path: Path, tmp_path: Path) -> None:
    """From file to file, without anything of this package that bends the config."""
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    cfg = load(path)
    # An untrained head is sure of nothing.
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    cfg.test_dataloader.dataset.pipeline[1].scale = (128, 128)
    config, weights = tmp_path / "config.py", tmp_path / "epoch_1.pth"
    cfg.dump(config)
    model = build(cfg)
    torch.save(dict(state_dict=model.state_dict(), meta={}), weights)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)

    detector = init_detector(str(config), str(weights), device="cpu")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, detector.state_dict()[name]), name
    found = inference_detector(detector, image).pred_instances
    assert len(found) == 10
    assert found.masks.shape[1:] == (60, 90)
    boxes = found.bboxes
    assert (boxes[:, 2] <= 90).all() and (boxes[:, 3] <= 60).all()

    inferencer = DetInferencer(str(config), str(weights), device="cpu")
    path = tmp_path / "image.png"
    Image.fromarray(image[..., ::-1]).save(path)
    for given in (image, str(path)):
        (again,) = inferencer(given, no_save_vis=True)["predictions"]
        np.testing.assert_allclose(again["bboxes"], boxes, atol=1e-4)


def test_gradient_checkpointing_gives_equal_gradients() -> None:
    """In the detector, with drop path, windows and the bias that layers share."""
    model = build(load(LI2021))
    model.backbone.rel_pos_bias_window.table.data.normal_()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            names = [f"backbone.layers.{i}" for i in range(12)]
            turn_on_activation_checkpointing(model, names)
        torch.manual_seed(0)
        np.random.seed(0)  # the RoI sampler draws from both
        model.zero_grad()
        loss_of(model, batch()).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def saved_bytes(backbone: nn.Module, size: int) -> int:
    """Bytes that autograd keeps for the backward pass, attention matrices included."""
    attention = pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.nbytes
        return tensor

    hooks = saved_tensors_hooks(pack, lambda tensor: tensor)
    with attention.sdpa_kernel(attention.SDPBackend.MATH), hooks:
        backbone(torch.randn(1, 3, size, size))
    return total


@pytest.mark.parametrize(("global_layers", "linear"), [([], True), ([0, 1], False)])
def test_memory_grows_linearly_with_windows(
    global_layers: list[int], linear: bool
) -> None:
    """Four times the tokens: four times the memory, not sixteen times."""
    vit = dict(TINY_VIT, num_layers=2)
    cfg = load(
        LI2021,
        model__backbone__arch=vit,
        model__backbone__window_size=4,
        model__backbone__out_indices=[1],
        model__backbone__global_attn_indexes=global_layers,
    )
    backbone = MODELS.build(cfg.model.backbone)
    small, large, larger = (saved_bytes(backbone, size) for size in (128, 256, 512))
    # The difference leaves out what does not depend on the image: the weights.
    growth = (larger - large) / (large - small)
    assert growth == pytest.approx(4, rel=0.02) if linear else growth > 12


def test_benchmark_compares_the_recipes() -> None:
    """What it calls ViTDet is our ViTDet, and its plain ViT has no windows."""

    def parts(model: ConfigDict) -> list[Any]:
        heads = model.roi_head.bbox_head, model.roi_head.mask_head
        return [model.neck, *(head.norm_cfg for head in heads)]

    models = {name: load(LI2021).model for name in VARIANTS}
    for name, change in VARIANTS.items():
        change(models[name])
    assert models["as configured"] == load(LI2021).model
    assert models["without relative position bias"] == load(NO_REL_POS).model
    vitdet = models["as in ViTDet"]
    assert parts(vitdet) == parts(load(VITDET).model)
    assert [MODELS.build(vitdet.backbone).out_indices] == [[11]]
    assert not vitdet.backbone.use_rel_pos_bias and vitdet.backbone.window_size
    assert type(MODELS.build(models["plain global ViT"].backbone)) is VisionTransformer


def test_another_number_of_classes_is_named() -> None:
    """By mmdet's hook, which the config adds: CUDA would only report an assert."""
    from mmdet.engine.hooks import NumClassCheckHook

    assert load(LI2021).default_hooks.num_classes == dict(type="NumClassCheckHook")
    dataset = type("Dataset", (), dict(metainfo=dict(classes=("cat", "dog"))))()
    loader = type("Loader", (), dict(dataset=dataset))
    runner = type(
        "Runner", (), dict(model=build(load(LI2021)), train_dataloader=loader)
    )
    with pytest.raises(AssertionError, match="num_classes.*80"):
        NumClassCheckHook().before_train_epoch(runner)


def test_importing_the_package_imports_no_mmdet() -> None:
    """Read off the sources: mmpretrain itself imports mmdet where it is installed."""
    sources = {path: path.read_text() for path in (REPO / "saim_mm").rglob("*.py")}
    needing = [
        p.stem for p, s in sources.items() if re.search("^(from|import) mmdet", s, re.M)
    ]
    assert needing == ["checked_coco"]
    assert not any("import checked_coco" in source for source in sources.values())
    assert not any("from .checked_coco" in source for source in sources.values())
