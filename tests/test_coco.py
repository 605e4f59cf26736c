"""COCO: the recipes, their models, schedules and parameter groups."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import turn_on_activation_checkpointing
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from saim_mm import launch

pytest.importorskip("mmdet")
pytest.importorskip("mmcv.ops")

from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from saim_mm.checkpoint import CheckpointError  # noqa: E402

REPO = Path(__file__).parents[1]
CONFIGS = REPO / "configs/coco"
LI2021 = CONFIGS / "mask-rcnn_saim-vit-b_100e_coco.py"
NO_REL_POS = CONFIGS / "mask-rcnn_saim-vit-b_no-rel-pos_100e_coco.py"
VITDET = CONFIGS / "vitdet_saim-vit-b_100e_coco.py"
ALL = [LI2021, NO_REL_POS, VITDET]

TINY_VIT = dict(embed_dims=32, num_layers=12, num_heads=4, feedforward_channels=64)
#: Sizes only. 128 px: 8 x 8 patches, which windows of 3 do not divide.
SHRINK: dict[str, Any] = {
    "model.data_preprocessor.pad_size_divisor": 128,
    "model.backbone.arch": dict(_delete_=True, **TINY_VIT),
    "model.backbone.img_size": 128,
    "model.backbone.window_size": 3,
    "model.backbone.init_cfg": None,
    "model.rpn_head.in_channels": 16,
    "model.rpn_head.feat_channels": 16,
    "model.roi_head.bbox_roi_extractor.out_channels": 16,
    "model.roi_head.bbox_head.in_channels": 16,
    "model.roi_head.bbox_head.conv_out_channels": 16,
    "model.roi_head.bbox_head.fc_out_channels": 32,
    "model.roi_head.mask_roi_extractor.out_channels": 16,
    "model.roi_head.mask_head.in_channels": 16,
    "model.roi_head.mask_head.conv_out_channels": 16,
    "model.train_cfg.rcnn.sampler.num": 64,
    "model.train_cfg.rpn_proposal.max_per_img": 100,
}
SHRINK_NECK: dict[str, dict[str, Any]] = {
    "li2021": {
        "model.neck.0.embed_dims": 32,
        "model.neck.1.in_channels": [32] * 4,
        "model.neck.1.out_channels": 16,
    },
    "vitdet": {"model.neck.embed_dims": 32, "model.neck.out_channels": 16},
}


def config_id(path: Path) -> str:
    return path.stem


@pytest.fixture(autouse=True)
def mmdet_scope() -> Any:
    """Leaves no default scope behind."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def load(path: Path, *, shrunk: bool = True, **options: Any) -> Config:
    """A config; ``options`` are further overrides, with __ for a dot."""
    cfg = Config.fromfile(path)
    if shrunk:
        cfg.merge_from_dict(SHRINK)
        cfg.merge_from_dict(SHRINK_NECK["vitdet" if path == VITDET else "li2021"])
    cfg.merge_from_dict({k.replace("__", "."): v for k, v in options.items()})
    return cfg


def build(cfg: Config) -> nn.Module:
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.init_weights()
    return model


def batch(instances: tuple[int, ...] = (3, 2), size: int = 128) -> dict[str, list]:
    """Images of noise with so many boxes each, and their masks."""
    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for index, count in enumerate(instances):
        corner = torch.from_numpy(rng.uniform(0, size / 2, (count, 2))).float()
        extent = torch.from_numpy(rng.uniform(16, size / 2, (count, 2))).float()
        masks = np.zeros((count, size, size), dtype=np.uint8)
        for mask, (x, y), (w, h) in zip(masks, corner, extent, strict=True):
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=torch.cat([corner, corner + extent], dim=1),
                labels=torch.from_numpy(rng.integers(0, 80, count)),
                masks=BitmapMasks(masks, size, size),
            ),
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
        )
        shape = (size, size)
        sample.set_metainfo(
            dict(img_id=index, img_shape=shape, ori_shape=shape, scale_factor=(1, 1))
        )
        samples.append(sample)
        pixels = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
        inputs.append(torch.from_numpy(pixels))
    return dict(inputs=inputs, data_samples=samples)


def loss_of(model: nn.Module, data: dict[str, list]) -> Tensor:
    model.train()
    data = model.data_preprocessor(copy.deepcopy(data), training=True)
    losses = model(**data, mode="loss")
    total, _ = model.parse_losses(losses)
    return total


# Recipes ------------------------------------------------------------------------------


def test_recipe_is_table_8() -> None:
    cfg = load(LI2021, shrunk=False)
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer == dict(type="AdamW", lr=8e-5, betas=(0.9, 0.99), weight_decay=0.1)
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    assert cfg.train_dataloader.batch_size * 32 == 64
    assert cfg.auto_scale_lr.base_batch_size == 64
    assert cfg.train_cfg.max_epochs == 100
    backbone = cfg.model.backbone
    assert backbone.drop_path_rate == 0.1
    assert backbone.interpolate_mode == "bilinear"
    assert (backbone.window_size, backbone.use_rel_pos_bias) == (14, True)
    assert backbone.global_attn_indexes == backbone.out_indices == [2, 5, 8, 11]
    assert load(NO_REL_POS, shrunk=False).model.backbone.use_rel_pos_bias is False


@pytest.mark.parametrize("path", ALL, ids=config_id)
def test_every_1024_is_the_same_1024(path: Path) -> None:
    cfg = load(path, shrunk=False)
    train = {t["type"]: t for t in cfg.train_dataloader.dataset.pipeline}
    test = {t["type"]: t for t in cfg.test_dataloader.dataset.pipeline}
    sizes = {train["RandomResize"].scale, train["RandomCrop"].crop_size}
    assert sizes == {test["Resize"].scale} == {(1024, 1024)}
    assert train["RandomResize"].ratio_range == (0.1, 2.0)
    assert cfg.model.data_preprocessor.pad_size_divisor == 1024
    if path != VITDET:  # it resizes its position embedding at each step
        assert cfg.model.backbone.img_size == 1024


def test_norms() -> None:
    """GN in the way up, SyncBN in the FPN, and in the heads one that may be empty."""
    model = load(LI2021, shrunk=False).model
    assert model.neck[0].norm_cfg == dict(type="GN", num_groups=32)
    assert model.neck[1].norm_cfg == dict(type="SyncBNOrBN")
    for head in (model.roi_head.bbox_head, model.roi_head.mask_head):
        assert head.norm_cfg == dict(type="SyncBNOrBN", stats_mode="N")
    model = load(VITDET, shrunk=False).model
    for part in (model.neck, model.roi_head.bbox_head, model.roi_head.mask_head):
        assert part.norm_cfg == dict(type="mmpretrain.LN2d", eps=1e-6)


# Models -------------------------------------------------------------------------------


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
    (again,) = inferencer(image, no_save_vis=True)["predictions"]
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


def test_benchmark_compares_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it calls ViTDet is our ViTDet, and its plain ViT has no windows."""
    tools = REPO / "tools/analysis_tools"
    monkeypatch.syspath_prepend(str(tools))
    variants = runpy.run_path(str(tools / "benchmark_detector.py"))["VARIANTS"]

    def parts(model: ConfigDict) -> list[Any]:
        heads = model.roi_head.bbox_head, model.roi_head.mask_head
        return [model.neck, *(head.norm_cfg for head in heads)]

    models = {name: load(LI2021).model for name in variants}
    for name, change in variants.items():
        change(models[name])
    assert models["as configured"] == load(LI2021).model
    assert models["without relative position bias"] == load(NO_REL_POS).model
    vitdet = models["as in ViTDet"]
    assert parts(vitdet) == parts(load(VITDET).model)
    assert [MODELS.build(vitdet.backbone).out_indices] == [[11]]
    assert not vitdet.backbone.use_rel_pos_bias and vitdet.backbone.window_size
    assert type(MODELS.build(models["plain global ViT"].backbone)) is VisionTransformer


# Schedules ----------------------------------------------------------------------------


def rates(cfg: Config, iterations: int) -> list[float]:
    """The rate at every iteration of a run of this length."""
    lr = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr)
    schedulers = []
    for scheduler in copy.deepcopy(cfg.param_scheduler):
        assert not scheduler.by_epoch
        scheduler.setdefault("end", iterations)  # as Runner does
        where = dict(optimizer=optimizer)
        schedulers.append(PARAM_SCHEDULERS.build(scheduler, default_args=where))
    optimizer.step()
    found = []
    for _ in range(iterations):
        found.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    return found


def test_schedule_is_quarter_epoch_of_warm_up_then_half_cosine() -> None:
    warm_up, total = 461, 4000
    for iteration, rate in enumerate(rates(load(LI2021), total)):
        progress = (iteration - warm_up) / (total - warm_up)
        expected = 8e-5 * 0.5 * (1 + math.cos(math.pi * progress))
        if iteration < warm_up:
            # MMEngine reaches the peak in the warm-up's last iteration.
            expected = 8e-5 * (1e-3 + (1 - 1e-3) * iteration / (warm_up - 1))
        assert rate == pytest.approx(expected, abs=1e-10)
    assert rate < 1e-10


def test_vitdet_schedule_is_warm_up_and_two_steps() -> None:
    cfg = load(VITDET)
    total, (first, second) = cfg.train_cfg.max_iters, cfg.param_scheduler[1].milestones
    assert (total, first, second) == (184375, 163889, 177546)
    assert total == 100 * 118_000 // 64
    assert (first, second) == (round(total * 8 / 9), round(total * 26 / 27))
    # The same, with a thousandth of the iterations between the steps.
    cfg.param_scheduler[1].milestones = [1000, 1010]
    for iteration, rate in enumerate(rates(cfg, 1020)):
        expected = 1e-4 * 0.1 ** ((iteration >= 1000) + (iteration >= 1010))
        if iteration < 250:
            expected = 1e-4 * (1e-3 + (1 - 1e-3) * iteration / 249)
        assert rate == pytest.approx(expected)


# Parameter groups ---------------------------------------------------------------------

#: Names -> whether they decay; the rate's scale is (layer decay) ** POWER.
_LAYER = r"backbone\.layers\.\d+\."
GOLDEN_DECAY = {
    r"backbone\.pos_embed": 0.0,
    r"backbone\.patch_embed\.projection\.weight": 0.1,
    r"backbone\.patch_embed\.projection\.bias": 0.0,
    _LAYER + r"ln[12]\.(?:weight|bias)": 0.0,
    _LAYER + r"(?:attn\.(?:qkv|proj)|ffn\.layers\.(?:0\.0|1))\.weight": 0.1,
    _LAYER + r"(?:attn\.(?:qkv|proj)|ffn\.layers\.(?:0\.0|1))\.bias": 0.0,
    r"backbone\.rel_pos_bias_(?:window|global)\.table": 0.0,
    r"neck\.(?:0\.)?scales\.0\.1\.(?:weight|bias)": 0.0,  # norm
    r"neck\.(?:0\.)?scales\.(?:0\.[03]|1)\.weight": 0.1,
    r"neck\.(?:0\.)?scales\.(?:0\.[03]|1)\.bias": 0.0,
    r"neck\.1\.(?:lateral|fpn)_convs\.[0-3]\.conv\.weight": 0.1,
    r"neck\.1\.(?:lateral|fpn)_convs\.[0-3]\.bn\.(?:weight|bias)": 0.0,
    r"neck\.outputs\.[0-3]\.[01]\.conv\.weight": 0.1,
    r"neck\.outputs\.[0-3]\.[01]\.ln\.(?:weight|bias)": 0.0,
    r"rpn_head\.(?:rpn_conv\.[01]\.conv|rpn_cls|rpn_reg)\.weight": 0.1,
    r"rpn_head\.(?:rpn_conv\.[01]\.conv|rpn_cls|rpn_reg)\.bias": 0.0,
    r"roi_head\.bbox_head\.(?:fc_cls|fc_reg|shared_fcs\.0)\.weight": 0.1,
    r"roi_head\.bbox_head\.(?:fc_cls|fc_reg|shared_fcs\.0)\.bias": 0.0,
    r"roi_head\.(?:bbox|mask)_head\.(?:shared_)?convs\.[0-3]\.conv\.weight": 0.1,
    r"roi_head\.(?:bbox|mask)_head\.(?:shared_)?convs\.[0-3]\.(?:bn|ln)\..+": 0.0,
    r"roi_head\.mask_head\.(?:upsample|conv_logits)\.weight": 0.1,
    r"roi_head\.mask_head\.(?:upsample|conv_logits)\.bias": 0.0,
}


def golden_power(name: str) -> int:
    """Layers between a parameter and the top; the embedding is the 13th below it."""
    layer = re.match(r"backbone\.layers\.(\d+)\.", name)
    if layer:
        return 12 - int(layer[1])
    embedding = name.startswith(("backbone.pos_embed", "backbone.patch_embed."))
    return 13 if embedding else 0


@pytest.mark.parametrize(
    ("path", "lr", "layer_decay", "tensors"),
    [(LI2021, 8e-5, 1.0, 223), (NO_REL_POS, 8e-5, 1.0, 221), (VITDET, 1e-4, 0.7, 221)],
)
def test_parameter_groups(
    path: Path, lr: float, layer_decay: float, tensors: int
) -> None:
    """Name -> rate and weight decay, for every parameter of the full model."""
    cfg = load(path, shrunk=False)
    launch.fit_to_machine(cfg)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    table = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }
    assert len(table) == len(names) == tensors
    for name, (rate, decay) in table.items():
        (golden,) = [v for k, v in GOLDEN_DECAY.items() if re.fullmatch(k, name)]
        assert decay == golden, name
        assert rate == pytest.approx(lr * layer_decay ** golden_power(name)), name


# Encoder checkpoints ------------------------------------------------------------------


def save_encoder(path: Path) -> Path:
    """A bare encoder of the tiny size, pretrained on 4 x 4 patches."""
    vit = dict(
        type="SAIMViT",
        arch=TINY_VIT,
        img_size=64,
        patch_size=16,
        final_norm=False,
    )
    torch.save(MODELS.build(vit).state_dict(), path)
    return path


def with_encoder(path: Path, file: Path | None) -> Config:
    """A shrunk config with its own ``init_cfg``, and what a user sets in it."""
    cfg = load(path)
    cfg.model.backbone.init_cfg = load(path, shrunk=False).model.backbone.init_cfg
    if file is not None:
        cfg.merge_from_dict({"model.backbone.init_cfg.checkpoint": str(file)})
    return cfg


def test_encoder_is_required() -> None:
    cfg = with_encoder(LI2021, None)
    with pytest.raises(ValueError, match="checkpoint.*init_cfg=None"):
        build(cfg)


@pytest.mark.parametrize("path", ALL, ids=config_id)
def test_encoder_by_one_line(path: Path, tmp_path: Path) -> None:
    file = save_encoder(tmp_path / "encoder.pth")
    model = build(with_encoder(path, file))
    weight = model.backbone.layers[3].attn.qkv.weight
    assert torch.equal(weight, torch.load(file)["layers.3.attn.qkv.weight"])


@pytest.mark.parametrize(
    "options",
    [
        {"model.backbone.arch.embed_dims": 64},
        {"model.backbone.patch_size": 8},
    ],
    ids=["width", "patch size"],
)
def test_encoder_of_another_size_names_file_and_key(
    options: dict[str, int], tmp_path: Path
) -> None:
    file = save_encoder(tmp_path / "encoder.pth")
    cfg = with_encoder(LI2021, file)
    cfg.merge_from_dict(options)
    model = MODELS.build(cfg.model.backbone)
    with pytest.raises(CheckpointError) as error:
        model.init_weights()
    assert str(file) in str(error.value)
    assert re.search(r"'(pos_embed|patch_embed.projection.weight)'", str(error.value))


# Guards -------------------------------------------------------------------------------


def test_another_number_of_classes_is_named() -> None:
    """By mmdet's hook, which the config adds: CUDA would only report an assert."""
    from mmdet.engine.hooks import NumClassCheckHook

    assert dict(type="NumClassCheckHook") in load(LI2021).custom_hooks
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
        p.stem for p, s in sources.items() if re.search(r"(from|import) mmdet", s)
    ]
    assert needing == ["checked_coco"]
    assert not any("import checked_coco" in source for source in sources.values())
    assert not any("from .checked_coco" in source for source in sources.values())


# Real data ----------------------------------------------------------------------------


def run(*command: str | Path) -> str:
    """Runs a tool of this repository; its output."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=REPO,
        # One thread: more only get in each other's way in so small a model.
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    "SAIM_MM_DATA" not in os.environ,
    reason="set SAIM_MM_DATA to a folder with coco/{train2017,val2017,annotations}",
)
@pytest.mark.parametrize("path", [LI2021, VITDET], ids=config_id)
def test_real_images_train_resume_evaluate_and_draw(path: Path, tmp_path: Path) -> None:
    root = f"{os.environ['SAIM_MM_DATA']}/coco/"
    cfg = load(path)
    cfg.merge_from_dict(
        {
            "val_evaluator.ann_file": f"{root}annotations/instances_val2017.json",
            "test_evaluator.ann_file": f"{root}annotations/instances_val2017.json",
            "default_hooks.logger.interval": 1,
            "default_hooks.visualization.score_thr": 0.0,
            "model.test_cfg.rcnn.score_thr": 0.0,
            "model.test_cfg.rcnn.max_per_img": 5,
        }
    )
    for name in ("train", "val", "test"):
        loader = cfg[f"{name}_dataloader"]
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = root
        for transform in loader.dataset.pipeline:
            for size in ("scale", "crop_size"):
                if size in transform:
                    transform[size] = (128, 128)
    epochs = path == LI2021
    if epochs:
        cfg.train_dataloader.dataset.indices = 8
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 2
    else:
        cfg.default_hooks.checkpoint.interval = 4
        cfg.train_cfg.update(max_iters=4, val_interval=4)
    tiny, work = tmp_path / "tiny.py", tmp_path / "work"
    cfg.dump(tiny)

    log = run("tools/train.py", tiny, "--work-dir", work)
    assert "coco/bbox_mAP" in log and "coco/segm_mAP" in log
    last = "epoch_1.pth" if epochs else "iter_4.pth"
    assert (work / last).is_file()

    more = "train_cfg.max_epochs=2" if epochs else "train_cfg.max_iters=6"
    log = run(
        "tools/train.py", tiny, "--work-dir", work, "--resume", "--cfg-options", more
    )
    assert re.search(r"resumed epoch: [01], iter: 4", log)
    trained = work / ("epoch_2.pth" if epochs else "iter_6.pth")
    assert trained.is_file()

    run(
        "tools/test.py", tiny, trained, "--work-dir", work,
        "--out", work / "metrics.json", "--show-dir", work / "shown",
    )  # fmt: skip
    metrics = json.loads((work / "metrics.json").read_text())
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(metrics)
    assert len(list((work / "shown").glob("*.jpg"))) == 6
