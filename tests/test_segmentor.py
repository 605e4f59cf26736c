"""The segmentor of configs/ade20k: sizes, tests by window and whole, from scratch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope
from tiny import randomise
from torch import nn

pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
pytest.importorskip("mmseg")

from mmseg.structures import SegDataSample  # noqa: E402

CONFIGS = Path(__file__).parents[1] / "configs" / "ade20k"
RECIPE = CONFIGS / "upernet_saim-vit-b_160k_ade20k-512.py"
WHOLE = CONFIGS / "upernet_saim-vit-b_160k_ade20k-512_whole.py"
WIDTH = 16


def shrink(cfg: Config, size: int = 64) -> Config:
    """Only widths and sizes of the model: 12 narrow layers, windows of ``size``."""
    model = cfg.model
    model.data_preprocessor.size = (size, size)
    model.backbone.update(
        arch=dict(
            embed_dims=WIDTH, num_layers=12, num_heads=2, feedforward_channels=32
        ),
        img_size=size,
        init_cfg=None,
    )
    model.neck.embed_dim = WIDTH
    model.decode_head.update(in_channels=[WIDTH] * 4, channels=WIDTH)
    model.auxiliary_head.update(in_channels=WIDTH, channels=WIDTH)
    if model.test_cfg.mode == "slide":
        stride = round(size * 341 / 512)
        model.test_cfg.update(crop_size=(size, size), stride=(stride, stride))
    return cfg


def build(path: Path, **test_cfg: Any) -> nn.Module:
    cfg = shrink(Config.fromfile(path))
    cfg.model.test_cfg.update(test_cfg)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
    randomise(model, seed=0)
    return model.eval()


def sample(shape: tuple[int, int], original: tuple[int, int]) -> SegDataSample:
    return SegDataSample(
        metainfo=dict(img_shape=shape, ori_shape=original, pad_shape=shape)
    )


@torch.no_grad()
def predict(model: nn.Module, image: torch.Tensor, original: tuple[int, int]) -> Any:
    data = dict(inputs=[image], data_samples=[sample(image.shape[1:], original)])
    data = model.data_preprocessor(data, training=False)
    with DefaultScope.overwrite_default_scope("mmseg"):
        (result,) = model(**data, mode="predict")
    return result


@pytest.mark.parametrize("path", [RECIPE, WHOLE], ids=["slide", "whole"])
@pytest.mark.parametrize(
    "shape", [(64, 64), (70, 101), (50, 90), (130, 64), (9, 90), (130, 16), (16, 16)]
)
def test_prediction_has_the_size_of_the_original(
    path: Path, shape: tuple[int, int]
) -> None:
    """Sides need not be equal, nor multiples of the patch; originals differ again."""
    original = (shape[0] + 11, shape[1] - 5)
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    result = predict(build(path), image, original)
    assert result.pred_sem_seg.data.shape == (1, *original)
    assert result.seg_logits.data.shape == (150, *original)
    assert result.seg_logits.data.isfinite().all()


@pytest.mark.parametrize("shape", [(64, 96), (50, 90), (96, 64)])
def test_whole_is_slide_with_one_window(shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    slide = predict(build(RECIPE, crop_size=(96, 96)), image, shape)
    whole = predict(build(WHOLE), image, shape)
    assert torch.equal(slide.seg_logits.data, whole.seg_logits.data)


def test_windows_are_averaged() -> None:
    """Two windows side by side, against the average written out."""
    model = build(RECIPE, crop_size=(64, 64), stride=(43, 43))
    image = torch.randint(0, 256, (3, 64, 100), dtype=torch.uint8)
    slide = predict(model, image, (64, 100)).seg_logits.data
    left = predict(model, image[:, :, :64], (64, 64)).seg_logits.data
    right = predict(model, image[:, :, 36:], (64, 64)).seg_logits.data
    expected = torch.cat(
        [left[:, :, :36], (left[:, :, 36:] + right[:, :, :28]) / 2, right[:, :, 28:]], 2
    )
    torch.testing.assert_close(slide, expected)


def test_recipe_is_table_9() -> None:
    cfg = Config.fromfile(RECIPE)
    wrapper = cfg.optim_wrapper
    assert wrapper.type == "AmpOptimWrapper"
    assert "clip_grad" not in wrapper
    assert wrapper.optimizer == dict(
        type="AdamW", lr=4e-4, betas=(0.9, 0.99), weight_decay=0.05
    )
    assert wrapper.paramwise_cfg.layer_decay_rate == 0.65
    assert (
        cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    )
    assert cfg.train_cfg.max_iters == 160_000
    with DefaultScope.overwrite_default_scope("mmseg"), torch.device("meta"):
        backbone = MODELS.build(cfg.model).backbone
    assert (backbone.embed_dims, backbone.num_layers) == (768, 12)
    assert tuple(backbone.img_size) == (512, 512)
    assert backbone.interpolate_mode == "bilinear"
    assert backbone.out_indices == [3, 5, 7, 11]
    assert not backbone.final_norm
    rates = [m.drop_prob for m in backbone.modules() if hasattr(m, "drop_prob")]
    assert max(rates) == pytest.approx(0.1)
    assert cfg.model.decode_head.num_classes == 150
    assert cfg.model.auxiliary_head.num_classes == 150


def test_schedule_is_warm_up_then_linear_to_zero() -> None:
    """At 1/100 of its length, every iteration against the closed form."""
    cfg = Config.fromfile(RECIPE)
    wrapper = build_optim_wrapper(
        nn.Linear(2, 2),
        dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=4e-4)),
    )
    schedulers = []
    for scheduler in copy.deepcopy(cfg.param_scheduler):
        scheduler.setdefault("end", cfg.train_cfg.max_iters)  # as Runner does
        scheduler.update(begin=scheduler.begin // 100, end=scheduler.end // 100)
        schedulers.append(PARAM_SCHEDULERS.build(dict(scheduler, optimizer=wrapper)))
    for iteration in range(1600):
        warm = 4e-4 * iteration / 15
        decayed = 4e-4 * (1 - (iteration - 15) / (1600 - 15))
        (rate,) = set(wrapper.get_lr()["lr"])
        expected = warm if iteration < 15 else decayed
        # MMEngine ends the warm-up one iteration early.
        assert rate == pytest.approx(expected, abs=1.01 * 4e-4 / 15)
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rate == pytest.approx(0, abs=1e-6)


def test_training_without_an_encoder_stops() -> None:
    """Never silently from scratch; ``init_cfg=None`` says that it is meant."""
    cfg = Config.fromfile(RECIPE)
    backbone = shrink(copy.deepcopy(cfg)).model.backbone
    MODELS.build(backbone).init_weights()  # shrink sets init_cfg=None
    backbone.init_cfg = cfg.model.backbone.init_cfg
    with pytest.raises(ValueError, match="names no checkpoint"):
        MODELS.build(backbone).init_weights()


@pytest.mark.parametrize(
    ("saved", "key"),
    [
        (dict(embed_dims=2 * WIDTH), "cls_token"),
        (dict(patch_size=8), "patch_embed.projection.weight"),
        (dict(num_layers=2), "layers.2.ln1.weight"),
    ],
    ids=["width", "patch size", "depth"],
)
def test_encoder_of_another_size(
    saved: dict[str, Any], key: str, tmp_path: Path
) -> None:
    """The error names the file and the key."""
    backbone = shrink(Config.fromfile(RECIPE)).model.backbone
    other = copy.deepcopy(backbone)
    other.arch.update({k: v for k, v in saved.items() if k != "patch_size"})
    other.patch_size = saved.get("patch_size", 16)
    other.out_indices = -1
    path = tmp_path / "encoder.pth"
    torch.save(dict(state_dict=MODELS.build(other).state_dict()), path)
    backbone.init_cfg = dict(type="Pretrained", checkpoint=str(path))
    with pytest.raises(ValueError) as error:
        MODELS.build(backbone).init_weights()
    assert str(path) in str(error.value)
    assert key in str(error.value)
