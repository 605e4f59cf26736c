"""FLOPs in closed form against those that torch counts, and the paper's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from tiny import tiny_config, tiny_dino, tiny_images, tiny_saim
from torch.utils.flop_counter import FlopCounterMode

from saim_mm.evaluation.flops import dino_flops, known_peak_tflops, saim_flops
from saim_mm.models import SAIM

CONFIGS = Path(__file__).parents[2] / "configs/saim"
OPTIONS: list[dict[str, Any]] = [
    dict(),
    dict(depth=2),
    dict(depth=2, tied_decoder=True),
    dict(query_share=0.5),
    dict(query_share=0.01),  # a single patch
    dict(depth=0, order="raster"),
    dict(order="segments", segment_size=(1, 3)),
    dict(projector="linear"),
    dict(projector="transformer"),
    dict(smoothing=None),
    dict(image_size=(32, 16), patch_size=(8, 4), channels=2),
    dict(
        order="raster",
        neck=dict(_delete_=True, type="AIMNeck"),
        head=dict(_delete_=True, type="AIMHead", num_blocks=2, width=24),
        reading=dict(type="PrefixReading", prefix=2),
    ),
    dict(
        order="segments",
        segment_size=(1, 3),
        neck=dict(type="RandSACNeck"),
        head=dict(_delete_=True, type="BlockHead", width=32),
    ),
    dict(
        neck=dict(_delete_=True, type="CrossMAENeck", width=24, decoder_heads=2),
        reading=dict(type="FixedReading", read=2, asks="after", content="all"),
    ),
    dict(type="RotaryViT", qk_norm="plain", layer_scale_init_value=0.1),
    dict(type="RotaryViT", layer_cfgs=dict(ffn_type="swiglu_fused")),
    dict(type="RegisterViT", num_registers=3),
    dict(type="RegisterViT", num_registers=2, cls_place="suffix"),
    dict(neck=dict(memory="last"), depth=3),
    dict(neck=dict(type="LayerMixNeck", mix_input=True), depth=3),
    dict(reading=dict(type="FixedReading", read=2, asked=3)),
    dict(
        reading=dict(type="FixedReading", read=4, asks="after", content="all"), depth=2
    ),
    dict(reading=dict(type="CutReading", asked=2)),
    dict(reading=dict(type="StrataReading", strata=3)),
    dict(reading=dict(type="StrataReading", strata=3), depth=0, order="raster"),
    dict(reading=dict(type="PrefixReading", weight="patches")),
    dict(reading=dict(type="PrefixReading", asked=2), with_cls_token=False),
    dict(reading=dict(type="PrefixReading"), depth=0, order="raster"),
    dict(reading=dict(type="PrefixReading", read=4), depth=1),
]


def counted(model: SAIM, batch_size: int = 2) -> tuple[float, float]:
    """What torch counts per image: forward, and forward and backward."""
    attention = pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    counter = FlopCounterMode(display=False)
    # The counter does not know the CPU's fused attention.
    with counter, attention.sdpa_kernel(attention.SDPBackend.MATH):
        loss = model.loss(tiny_images(model, batch_size))["loss"]
        forward = counter.get_total_flops()
        loss.backward()
    return forward / batch_size, counter.get_total_flops() / batch_size


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_closed_form_is_what_torch_counts(options: dict[str, Any]) -> None:
    """Of every scope, and of their mean."""
    model = tiny_saim(**options)
    scopes = model.order_sampler.scopes
    total, means = sum(scope.weight for scope in scopes), [0.0, 0.0]
    for scope in scopes:
        model.order_sampler.scopes = [scope]
        flops = saim_flops(model)
        pairs = zip((flops.forward, flops.step), counted(model), strict=True)
        for i, (ours, theirs) in enumerate(pairs):
            assert ours == pytest.approx(theirs, rel=0.01)
            means[i] += theirs * scope.weight / total
    model.order_sampler.scopes = scopes
    assert saim_flops(model).forward == pytest.approx(means[0], rel=0.01)
    assert saim_flops(model).step == pytest.approx(means[1], rel=0.01)


@pytest.mark.parametrize("options", [dict(), dict(depth=0, order="raster")], ids=str)
def test_nepa_embeds_its_targets(options: dict[str, Any]) -> None:
    config = tiny_config(**options)
    config.update(type="NEPA", head=dict(type="EmbeddingHead"))
    model = MODELS.build(config)
    flops = saim_flops(model)
    for ours, theirs in zip((flops.forward, flops.step), counted(model), strict=True):
        assert ours == pytest.approx(theirs, rel=0.01)


def test_dino_and_its_teacher() -> None:
    """Crops of two sizes; the student's are learnt from, all of the teacher is not."""
    attention = pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    model, crops = tiny_dino(), [16, 16, 8, 8, 8]
    model.teacher_moves = True
    images = [torch.randn(2, 3, side, side) for side in crops]
    counter = FlopCounterMode(display=False)
    with counter, attention.sdpa_kernel(attention.SDPBackend.MATH):
        loss = model.loss(images)["loss"]
        forward = counter.get_total_flops() / 2
        loss.backward()
    flops = dino_flops(model, crops)
    assert flops.forward == pytest.approx(forward, rel=0.01)
    assert flops.step == pytest.approx(counter.get_total_flops() / 2, rel=0.01)


def of_config(name: str, **options: Any) -> tuple[float, float]:
    """Forward in GMAC and a step in GFLOP."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.model.update(options)
    with torch.device("meta"):
        flops = saim_flops(MODELS.build(cfg.model))
    return flops.forward / 2e9, flops.step / 1e9


def test_vit_b_costs_what_the_method_says() -> None:
    forward, step = of_config("saim_vit-b_800e_in1k.py")
    assert forward == pytest.approx(35.9, rel=0.005)
    assert step == pytest.approx(216, rel=0.01)


def test_query_share_saves_all_but_keys_and_values() -> None:
    _, whole = of_config("saim_vit-b_800e_in1k.py")
    _, half = of_config("saim_vit-b_800e_in1k.py", query_share=0.5)
    _, quarter = of_config("saim_vit-b_800e_in1k.py", query_share=0.25)
    assert (whole - quarter) / (whole - half) == pytest.approx(1.5)
    assert whole / half == pytest.approx(1.27, abs=0.01)


@pytest.mark.parametrize(
    ("reading", "depth", "giga"),
    [
        (dict(type="FixedReading", read=49, asked=49), 12, 8.8),
        (dict(type="FixedReading", read=49, asked=98, asks="after"), 1, 5.4),
        (dict(type="FixedReading", read=98, asked=98), 6, 13.4),
        (dict(type="FixedReading", read=196, asked=49), 1, 18.3),
        (dict(type="CutReading", asked=49), 12, 13.4),
    ],
)
def test_vit_b_reading_a_part(reading: dict[str, Any], depth: int, giga: float) -> None:
    """GMAC by L(12 T D^2 + 2 T^2 D) + d(10 K D^2 + 2 S D^2 + 2 K S D) + ..."""
    neck = dict(type="SAIMNeck", depth=depth)
    forward, _ = of_config("saim_vit-b_800e_in1k.py", reading=reading, neck=neck)
    blur = 2 * 3 * 224**2 * 9 / 1e9
    assert forward - blur == pytest.approx(giga, abs=0.05)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("Tesla V100-SXM2-32GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peak_by_name(name: str, peak: float | None) -> None:
    assert known_peak_tflops(name) == peak
