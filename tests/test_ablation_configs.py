"""Ablations and baselines: each is its row of the paper's tables, and trains a step."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import saim_mm  # noqa: F401  (registers the models)
from saim_mm.datasets import without_files
from saim_mm.evaluation import FeatureExtractor
from saim_mm.models import SAIM, SAIMViT
from saim_mm.weights import load_encoder

ROOT = Path(__file__).parents[1] / "configs"
PRETRAIN = sorted(
    path
    for folder in ("ablations", "baselines", "small_scale")
    for path in (ROOT / folder).glob("*.py")
    if "deit" not in path.stem
)
BENCHMARKS = ROOT / "baselines/benchmarks"
KNN = sorted(BENCHMARKS.glob("dino*knn*.py"))
LABELLED = sorted(set(BENCHMARKS.glob("*.py")) - set(BENCHMARKS.glob("*knn*.py"))) + [
    ROOT / "baselines/deit_vit-b_300e_in1k.py"
]
#: What loads an encoder into SAIM's own fine-tuning.
PLAIN_VIT = ("mae_vit-b_1600e_in1k", "simmim_vit-b_1600e_in1k",
             "mocov3_vit-b_300e_in1k", "vit-igpt_vit-b_300e_in1k",
             "randsac_vit-b_1600e_in1k", "dino_vit-b_400e_in1k",
             "crossmae_vit-b_800e_in1k", "xtra_vit-b_800e_in1k-256px")  # fmt: skip
ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)

#: Paper's row: order, decoder's own layers, coupled, smoothing, loss, normalised, head.
SMOOTH = (9, 1.0)
ROWS: dict[str, tuple[Any, ...]] = {
    "baselines/vit-igpt_vit-b_300e_in1k":
        ("raster", 0, False, None, "l2", True, "mlp"),
    "ablations/saim_vit-b_raster_300e_in1k":
        ("raster", 12, False, None, "l2", True, "mlp"),
    "ablations/saim_vit-b_smoothing-none_300e_in1k":
        ("stochastic", 12, False, None, "l2", True, "mlp"),
    "ablations/saim_vit-b_decoder-coupled_300e_in1k":
        ("stochastic", 0, True, None, "l2", True, "mlp"),
    "ablations/saim_vit-b_decoder-6_300e_in1k":
        ("stochastic", 6, False, None, "l2", True, "mlp"),
    "ablations/saim_vit-b_decoder-1_300e_in1k":
        ("stochastic", 1, False, None, "l2", True, "mlp"),
    "ablations/saim_vit-b_smoothing-3-1_300e_in1k":
        ("stochastic", 12, False, (3, 1.0), "l2", True, "mlp"),
    "saim/saim_vit-b_300e_in1k":
        ("stochastic", 12, False, SMOOTH, "l2", True, "mlp"),
    "ablations/saim_vit-b_smoothing-9-1.5_300e_in1k":
        ("stochastic", 12, False, (9, 1.5), "l2", True, "mlp"),
    "ablations/saim_vit-b_loss-l1_300e_in1k":
        ("stochastic", 12, False, SMOOTH, "l1", False, "mlp"),
    "ablations/saim_vit-b_loss-mse_300e_in1k":
        ("stochastic", 12, False, SMOOTH, "l2", False, "mlp"),
    "ablations/saim_vit-b_head-linear_300e_in1k":
        ("stochastic", 12, False, SMOOTH, "l2", True, "linear"),
    "ablations/saim_vit-b_head-transformer_300e_in1k":
        ("stochastic", 12, False, SMOOTH, "l2", True, "transformer"),
}  # fmt: skip


def load(path: Path | str) -> Config:
    return Config.fromfile(ROOT / f"{path}.py" if isinstance(path, str) else path)


def build_full(cfg: Config) -> SAIM:
    with torch.device("meta"):
        return MODELS.build(cfg.model)


def head_kind(model: SAIM) -> str:
    if len(model.head.projector.layers):
        return "transformer"
    linear = isinstance(model.head.projector.to_pixels, torch.nn.Linear)
    return "linear" if linear else "mlp"


@pytest.mark.parametrize("name", ROWS)
def test_model_is_the_row_of_the_table(name: str) -> None:
    order, depth, coupled, smoothing, loss, normalised, head = ROWS[name]
    cfg = load(name)
    model = build_full(cfg)
    assert model.order_sampler.kind == order
    assert (len(model.neck.layers), model.neck.tied_decoder) == (depth, coupled)
    assert (model.head.loss_kind, model.head.norm_pix) == (loss, normalised)
    assert head_kind(model) == head
    if smoothing is None:
        assert isinstance(model.head.blur, torch.nn.Identity)
    else:
        taps = MODELS.build(cfg.model.head).blur.taps  # on the CPU, with values
        assert len(taps) == smoothing[0]
        sigma = (2 * math.log(taps[len(taps) // 2] / taps[len(taps) // 2 - 1])) ** -0.5
        assert sigma == pytest.approx(smoothing[1], rel=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_only_the_model_differs_from_the_paper_s_recipe(name: str) -> None:
    recipe = load("saim/saim_vit-b_300e_in1k").to_dict()
    row = load(name).to_dict()
    assert {key for key in row.keys() | recipe.keys()
            if row.get(key) != recipe.get(key)} <= {"model"}  # fmt: skip


def shrink_model(model: dict[str, Any], size: int, patch: int) -> None:
    """Only sizes, of any of the systems."""
    backbone = model["backbone"]
    backbone.update(arch=ARCH, img_size=size, patch_size=patch)
    patches = (size // patch) ** 2
    if model["type"] in ("SAIM", "NEPA"):
        shrink_saim(model)
    elif model["type"] == "MAE":
        model["neck"].update(num_patches=patches, patch_size=patch, embed_dim=32,
                             decoder_embed_dim=16, decoder_depth=1,
                             decoder_num_heads=2)  # fmt: skip
        model["head"].update(patch_size=patch)
    elif model["type"] == "SimMIM":
        model["neck"].update(in_channels=32, encoder_stride=patch)
        model["head"].update(patch_size=patch)
    elif model["type"] == "BEiT":
        model["head"].update(embed_dims=32, num_embed=16)
    elif model["type"] == "CAE":
        model["neck"].update(num_heads=2, embed_dims=32, regressor_depth=1,
                             decoder_depth=1, num_classes=16,
                             mask_tokens_num=6)  # fmt: skip
    elif model["type"] == "MoCoV3":
        model["neck"].update(in_channels=32, hid_channels=32, out_channels=16)
        model["head"]["predictor"].update(in_channels=16, hid_channels=32,
                                          out_channels=16)  # fmt: skip
    elif model["type"] == "DINOPretraining":
        model["neck"].update(in_channels=32, hidden_channels=32,
                             bottleneck_channels=8, out_channels=16)  # fmt: skip
        model["head"].update(out_channels=16)
    if "target_generator" in model:
        model["target_generator"] = dict(
            type="DALL-E", n_hid=4, n_blk_per_group=1, vocab_size=16
        )


def shrink_saim(model: dict[str, Any]) -> None:
    """SAIM, and the rivals that are made of its parts: 4 x 4 patches, not 14 x 14."""
    neck, head = model["neck"], model["head"]
    if neck["type"] == "CrossMAENeck":
        neck.update(depth=2, width=16, decoder_heads=2)
    elif neck["type"] != "AIMNeck":
        depth = neck.get("depth", 12)
        neck["depth"] = {12: 4, 6: 2}.get(depth, depth)
    if head["type"] == "AIMHead":
        head.update(num_blocks=2, width=32)
    elif head["type"] == "BlockHead":
        head.update(width=32)
    if "segment_size" in model:
        model["segment_size"] = (2, 2)
    if isinstance(model.get("segment_order"), dict):
        model["segment_order"]["group_size"] = (1, 2)
    if "read" in model.get("reading", {}):
        model["reading"]["read"] = 4
    if "asked" in model.get("reading", {}):
        model["reading"]["asked"] = 4


def shrink_pipeline(
    pipeline: Sequence[dict[str, Any]], size: int, patch: int
) -> list[dict[str, Any]]:
    """The transforms of pixels, in the smaller size; whatever reads files is left."""
    sizes: dict[str, dict[str, Any]] = {
        "RandomResizedCrop": dict(scale=size),
        "RandomResizedCropAndInterpolationWithTwoPic": dict(
            size=size, second_size=8 * size // patch
        ),
        "BEiTMaskGenerator": dict(
            input_size=(size // patch, size // patch),
            num_masking_patches=6,
            min_num_patches=2,
        ),
        "SimMIMMaskGenerator": dict(
            input_size=size, mask_patch_size=2 * patch, model_patch_size=patch
        ),
    }
    small = []
    for step in without_files(pipeline):
        if step["type"] == "SeedSample":
            continue
        step = {**step, **sizes.get(step["type"], {})}
        if step.get("crop_ratio_range") == (0.05, 0.25):  # DINO's small crops
            step["scale"] = size // 2
        if step["type"] == "MultiView":
            step["transforms"] = [
                shrink_pipeline(view, size, patch) for view in step["transforms"]
            ]
        small.append(step)
    return small


def photographs(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        dict(img=rng.integers(0, 256, (48, 56, 3), dtype=np.uint8), img_shape=(48, 56),
             ori_shape=(48, 56), gt_label=i % 3, sample_idx=i)
        for i in range(count)
    ]  # fmt: skip


def shrunk(path: Path) -> Config:
    cfg = load(path)
    size, patch = (8, 1) if "igpt_vit-b-p1" in path.stem else (32, 8)
    shrink_model(cfg.model, size, patch)
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.small_pipeline = shrink_pipeline(pipeline, size, patch)
    return cfg


def step(cfg: Config, model: torch.nn.Module) -> dict[str, float]:
    """One optimisation step on made-up photographs; returns the losses."""
    wrapper = dict(cfg.optim_wrapper, type="OptimWrapper")
    wrapper.pop("loss_scale", None), wrapper.pop("dtype", None)
    optim_wrapper = build_optim_wrapper(model, wrapper)
    pipeline = Compose(cfg.small_pipeline)
    batch = default_collate([pipeline(image) for image in photographs(4)])
    log = model.train_step(batch, optim_wrapper)
    return {name: value.item() for name, value in log.items()}


def build_and_step(cfg: Config) -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        preprocessor = dict(cfg.data_preprocessor)
        model = MODELS.build({**cfg.model, "data_preprocessor": preprocessor})
        model.init_weights()
        before = {name: p.clone() for name, p in model.named_parameters()}
        if hasattr(model, "teacher_moves"):
            model.teacher_moves = True  # by the hook of the recipe
        losses = step(cfg, model.train())
    assert losses and all(math.isfinite(value) for value in losses.values())
    if cfg.model.type == "NEPA":  # its first rate is too small to move a LayerScale
        assert losses["target_cosine"] < 0.9
    # Every layer of the encoder learns, the first one too.
    after = dict(model.named_parameters())
    trained = "student.backbone" if hasattr(model, "student") else "backbone"
    for layer in range(ARCH["num_layers"]):
        name = f"{trained}.layers.{layer}.attn.qkv.weight"
        assert not torch.equal(before[name], after[name]), name
    return model


@pytest.mark.parametrize("path", PRETRAIN, ids=lambda path: path.stem)
def test_shrunk_recipe_trains_a_step(path: Path) -> None:
    build_and_step(shrunk(path))


@pytest.mark.parametrize("name", PLAIN_VIT)
def test_encoder_goes_into_saim_s_own_fine_tuning(name: str, tmp_path: Path) -> None:
    """Same fine-tuning and probe: the checkpoint loads completely, and is the same."""
    cfg = shrunk(ROOT / f"baselines/{name}.py")
    model = build_and_step(cfg)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "epoch_1.pth")
    backbone = dict(load("saim/benchmarks/vit-b_finetune-avgpool_100e_in1k").model
                    .backbone, arch=ARCH, img_size=32, patch_size=8)  # fmt: skip
    backbone.pop("type"), backbone.pop("init_cfg")
    encoder = SAIMViT(**backbone)
    load_encoder(encoder, tmp_path / "epoch_1.pth")
    trained = model.backbone.state_dict()
    for key, value in encoder.state_dict().items():
        if not key.startswith("ln2."):  # starts anew
            assert torch.equal(value, trained[key]), key


@pytest.mark.parametrize("path", LABELLED, ids=lambda path: path.stem)
def test_shrunk_classifier_trains_a_step(path: Path) -> None:
    cfg = load(path)
    size, patch = (8, 1) if "32px" in path.stem else (32, 8)
    cfg.model.backbone.update(arch=ARCH, img_size=size, patch_size=patch, init_cfg=None)
    if "frozen_stages" in cfg.model.backbone:
        cfg.model.backbone.frozen_stages = ARCH["num_layers"]
        if cfg.model.get("neck"):
            cfg.model.neck.input_features = 32
    cfg.model.head.update(num_classes=3, in_channels=32)
    if "attentive" in path.stem:
        cfg.model.backbone.out_indices, cfg.model.head.parts = [2, 3], 4
    if "best-layer" in path.stem:
        cfg.model.backbone.out_indices = list(range(ARCH["num_layers"]))
        cfg.model.head.num_layers = ARCH["num_layers"]
    cfg.data_preprocessor.num_classes = 3
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.small_pipeline = shrink_pipeline(pipeline, size, patch)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(
            {**cfg.model, "data_preprocessor": {"type": "ClsDataPreprocessor",
                                                **cfg.data_preprocessor}}
        )  # fmt: skip
        model.init_weights()
        linear = [m for m in model.head.modules() if isinstance(m, torch.nn.Linear)]
        before = [layer.weight.clone() for layer in linear]
        losses = step(cfg, model.train())
    assert math.isfinite(losses["loss"])
    assert linear
    for layer, weight in zip(linear, before, strict=True):
        assert not torch.equal(layer.weight, weight)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("aim", "aim_vit-b_400e_in1k"), ("nepa", "nepa_vit-b-p14_1600e_in1k")],
)
@pytest.mark.parametrize(
    "task",
    ["finetune_100e", "linear_90e", "linear-best-layer_90e", "attentive", "knn"],
)
def test_encoders_with_other_parts_load_completely(
    name: str, recipe: str, task: str, tmp_path: Path
) -> None:
    """And come to the same features, after no norm, as what was trained."""
    trained = build_and_step(shrunk(ROOT / f"baselines/{recipe}.py")).backbone
    trained.eval()
    torch.save(
        dict(state_dict={f"backbone.{k}": v for k, v in trained.state_dict().items()}),
        tmp_path / "epoch_1.pth",
    )
    cfg = load(f"baselines/benchmarks/{name}_{task}_in1k")
    options = {**cfg.model.backbone, "arch": ARCH, "img_size": 32, "patch_size": 8}
    options.update(out_type="raw", final_norm=False, init_cfg=None)
    options.pop("frozen_stages", None), options.pop("out_indices", None)
    encoder = MODELS.build(options)
    encoder.eval()
    load_encoder(encoder, tmp_path / "epoch_1.pth")
    images = torch.randn(2, 3, 32, 32)
    trained.out_type = "raw"
    assert torch.equal(encoder(images)[-1], trained(images)[-1])


@pytest.mark.parametrize("task", ["finetune_100e", "attentive"])
@pytest.mark.parametrize("name", ["beit", "cae"])
def test_their_own_encoders_load_completely(
    name: str, task: str, tmp_path: Path
) -> None:
    """MMEngine only logs what it does not load, so count it here."""
    model = build_and_step(shrunk(ROOT / f"baselines/{name}_vit-b_800e_in1k.py"))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "epoch_1.pth")
    cfg = load(f"baselines/benchmarks/{name}_{task}_in1k")
    cfg.model.backbone.update(arch=ARCH, img_size=32, patch_size=8)
    if task == "attentive":
        cfg.model.backbone.update(frozen_stages=4, out_indices=[2, 3])
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / "epoch_1.pth")
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        backbone = MODELS.build(cfg.model.backbone)
        backbone.init_weights()
    trained, loaded = model.backbone.state_dict(), backbone.state_dict()
    for key, value in loaded.items():
        if key.endswith("attn.relative_position_bias_table"):
            # BEiT's one table goes into every layer.
            shared = trained["rel_pos_bias.relative_position_bias_table"]
            assert torch.equal(value, shared), key
        elif not key.startswith("ln2.") and "position_index" not in key:
            assert torch.equal(value, trained[key]), key
    assert {key.split(".")[0] for key in trained.keys() - loaded.keys()} <= {
        "ln1", "mask_token", "rel_pos_bias"
    }  # fmt: skip


def test_index_page_names_every_config_and_no_other() -> None:
    page = (ROOT.parent / "docs/experiments.md").read_text()
    named = set(re.findall(r"`((?:ablations|baselines|saim)/[^`]+\.py)`", page))
    assert all((ROOT / name).is_file() for name in named)
    there = {
        str(path.relative_to(ROOT))
        for folder in ("ablations", "baselines")
        for path in (ROOT / folder).glob("*.py")
    }
    assert there <= named
    table = {row.split("|")[2].strip(" `"): row.split("|")[3].strip()
             for row in page.splitlines() if row.count("|") == 5}  # fmt: skip
    for name in ROWS:  # the comment in a config and the page quote the same figure
        figure = table[f"{name}.py"].rstrip("0")
        source = (ROOT / f"{name}.py").read_text()
        assert figure in source or name.startswith("saim/"), name


@pytest.mark.parametrize(
    ("name", "batch", "rate", "epochs"),
    [
        ("mae_vit-b_1600e_in1k", 4096, 2.4e-3, 1600),
        ("simmim_vit-b_1600e_in1k", 2048, 4e-4, 1600),
        ("beit_vit-b_800e_in1k", 2048, 1.5e-3, 800),
        ("cae_vit-b_800e_in1k", 2048, 1.5e-3, 800),
        ("mocov3_vit-b_300e_in1k", 4096, 2.4e-3, 300),
        ("randsac_vit-b_1600e_in1k", 2048, 1.6e-3, 1600),
        ("aim_vit-b_400e_in1k", 4096, 1e-3, 400),
        ("nepa_vit-b-p14_1600e_in1k", 4096, 4.8e-3, 1600),
        ("crossmae_vit-b_800e_in1k", 4096, 2.4e-3, 800),
        ("crossmae_vit-b_ask-25_800e_in1k", 4096, 8e-4, 800),
        ("xtra_vit-b_800e_in1k-256px", 2048, 1e-3, 800),
        ("dino_vit-b_400e_in1k", 1024, 3e-3, 400),
        ("dino_vit-s_800e_in1k", 1024, 2e-3, 800),
    ],
)
def test_schedules_of_the_rivals(
    name: str, batch: int, rate: float, epochs: int
) -> None:
    cfg = load(f"baselines/{name}")
    assert cfg.train_dataloader.batch_size * 32 == batch
    assert cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate)
    assert cfg.train_cfg.max_epochs == epochs
    warmup, cosine, *_ = cfg.param_scheduler
    assert warmup["end"] == cosine["begin"] < epochs


@pytest.mark.parametrize("path", KNN, ids=lambda path: path.stem)
def test_knn_reads_the_teacher_after_its_norm(path: Path, tmp_path: Path) -> None:
    """The token that DINO's projection reads, of a shrunk pretraining checkpoint."""
    cfg = shrunk(ROOT / "baselines/dino_vit-b_400e_in1k.py")
    trained = build_and_step(cfg)
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / "epoch_1.pth")
    cfg = load(path)
    cfg.model.backbone.update(arch=ARCH, img_size=32, patch_size=8)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build({**cfg.model, "data_preprocessor": cfg.data_preprocessor})
    load_encoder(model.backbone, tmp_path / "epoch_1.pth")
    options = {key: cfg.test_cfg[key] for key in ("pool", "final_norm")}
    extractor = FeatureExtractor(
        model.backbone, model.data_preprocessor, **options, mixed_precision=False
    )
    images = torch.rand(2, 3, 32, 32) * 255
    found = extractor.extract_tensors(images, torch.zeros(2)).vectors
    trained.eval()
    normalised = model.data_preprocessor(dict(inputs=images))["inputs"]
    torch.testing.assert_close(found, trained.backbone(normalised)[-1])
