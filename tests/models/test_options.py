"""A wrong option fails when it is built: the value, what is allowed, the remedy."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmpretrain.registry import MODELS
from tiny import SMOOTHING, tiny_backbone, tiny_config, tiny_images, tiny_saim

from saim_mm.models import OrderSampler, SAIMHead
from saim_mm.models.saim_vit import sincos_position_embedding

NAN = float("nan")

# Options of tiny_config -> what the message must hold: value, allowed set, remedy.
WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "depth-no-divisor": (
        dict(num_layers=6, depth=4),
        ["depth=4", "6 layers", "[1, 2, 3, 6]", "0 for no decoder"],
    ),
    "depth-too-large": (dict(num_layers=4, depth=8), ["depth=8", "[1, 2, 4]"]),
    "depth-negative": (dict(depth=-1), ["depth=-1", "at least 0"]),
    "coupled-without-depth": (
        dict(order="raster", depth=0, tied_decoder=True),
        ["depth=0 with tied_decoder=True", "at least 1"],
    ),
    "no-decoder-stochastic": (
        dict(depth=0),
        ["depth=0", "'stochastic'", "order='raster' or depth>=1"],
    ),
    "no-decoder-segments": (
        dict(depth=0, order="segments", segment_size=(1, 3)),
        ["depth=0", "'segments'", "order='raster' or depth>=1"],
    ),
    "kernel-even": (
        dict(smoothing=dict(kernel_size=8, sigma=1.0)),
        ["kernel_size=8", "odd", "9 and 1.0", "smoothing=None"],
    ),
    "kernel-zero": (
        dict(smoothing=dict(kernel_size=0, sigma=1.0)),
        ["kernel_size=0", "positive"],
    ),
    "kernel-negative": (
        dict(smoothing=dict(kernel_size=-3, sigma=1.0)),
        ["kernel_size=-3", "positive"],
    ),
    "kernel-fraction": (
        dict(smoothing=dict(kernel_size=4.5, sigma=1.0)),
        ["kernel_size=4.5", "odd"],
    ),
    "sigma-zero": (
        dict(smoothing=dict(kernel_size=9, sigma=0.0)),
        ["sigma=0.0", "greater than 0"],
    ),
    "sigma-negative": (
        dict(smoothing=dict(kernel_size=9, sigma=-1.0)),
        ["sigma=-1.0", "greater than 0"],
    ),
    "sigma-nan": (
        dict(smoothing=dict(kernel_size=9, sigma=NAN)),
        ["sigma=nan", "greater than 0"],
    ),
    "projector": (
        dict(projector="conv"),
        ["projector='conv'", "('linear', 'mlp', 'transformer')"],
    ),
    "loss": (dict(loss="huber"), ["loss='huber'", "('l1', 'l2')"]),
    "order": (
        dict(order="random"),
        ["order='random'", "('stochastic', 'raster', 'segments')"],
    ),
    "image-rows": (
        dict(image_size=(10, 12)),
        ["img_size=(10, 12)", "(4, 4) pixels", "multiple", "(12, 12)"],
    ),
    "image-columns": (dict(image_size=(8, 13)), ["img_size=(8, 13)", "(8, 16)"]),
    "image-smaller-than-patch": (
        dict(image_size=(2, 4)),
        ["img_size=(2, 4)", "(4, 4)"],
    ),
    "segment-rows": (
        dict(image_size=(12, 12), order="segments", segment_size=(2, 3)),
        ["segment_size=(2, 3)", "(3, 3)", "rows must divide 3", "columns 3"],
    ),
    "segment-columns": (
        dict(order="segments", segment_size=(1, 2)),
        ["segment_size=(1, 2)", "(2, 3)", "columns 3"],
    ),
    "segment-zero": (
        dict(order="segments", segment_size=(0, 3)),
        ["segment_size=(0, 3)", "rows must divide 2"],
    ),
    "segment-negative": (
        dict(order="segments", segment_size=(-1, 3)),
        ["segment_size=(-1, 3)", "rows must divide 2"],
    ),
    "segment-missing": (
        dict(order="segments"),
        ["'segments'", "segment_size=(rows, columns)", "None"],
    ),
    "segment-one-number": (
        dict(order="segments", segment_size=2),
        ["segment_size=(rows, columns)", "not 2"],
    ),
    "segment-without-segments": (
        dict(segment_size=(1, 3)),
        ["segment_size=(1, 3)", "'stochastic'", "order='segments'"],
    ),
    "norm-of-one-value": (
        dict(patch_size=(1, 1), channels=1),
        ["patch_size=(1, 1)", "in_channels=1", "norm_pix=False", "larger patch"],
    ),
    "final-norm": (
        dict(final_norm=True),
        ["final_norm=True", "Set final_norm=False"],
    ),
    "averaged-output": (
        dict(out_type="avg_featmap"),
        ["'avg_featmap'", "out_type='cls_token', 'raw' or 'featmap'"],
    ),
    "no-class-token": (
        dict(with_cls_token=False),
        ["with_cls_token=True", "first patch"],
    ),
    "heads": (
        dict(embed_dims=16, num_heads=3),
        ["embed_dims=16", "num_heads=3", "divides"],
    ),
    "width": (
        dict(embed_dims=18),
        ["embed_dims=18", "sine-cosine", "multiple of 4"],
    ),
}


def _assert_says(error: pytest.ExceptionInfo[ValueError], parts: list[str]) -> None:
    message = str(error.value)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("name", WRONG)
def test_wrong_option_fails_when_built(name: str) -> None:
    options, parts = WRONG[name]
    with pytest.raises(ValueError) as error:
        MODELS.build(tiny_config(**options))
    _assert_says(error, parts)


def test_channels_of_preprocessor_and_backbone() -> None:
    config = tiny_config()
    values = dict(mean=[0.0] * 13, std=[1.0] * 13)
    config["data_preprocessor"] = dict(type="ChannelDataPreprocessor", **values)
    with pytest.raises(ValueError) as error:
        MODELS.build(config)
    _assert_says(error, ["images of 13 channels", "in_channels=3", "set both alike"])
    config["backbone"]["in_channels"] = 13
    assert MODELS.build(config).data_preprocessor.channels == 13


def test_plain_vit_is_refused() -> None:
    config = tiny_config()
    config["backbone"]["type"] = "VisionTransformer"
    with pytest.raises(ValueError) as error:
        MODELS.build(config)
    _assert_says(error, ["SAIMViT", "VisionTransformer", "backbone=dict(type="])


@pytest.mark.parametrize(
    ("part", "name", "value", "expected"),
    [
        ("neck", "embed_dims", 32, 16),
        ("neck", "num_heads", 4, 2),
        ("neck", "feedforward_channels", 64, 32),
        ("head", "embed_dims", 32, 16),
        ("head", "num_heads", 4, 2),
        ("head", "patch_size", (8, 8), (4, 4)),
        ("head", "patch_size", [2, 4], (4, 4)),
        ("head", "patch_size", 8, (4, 4)),
        ("head", "in_channels", 1, 3),
    ],
)
def test_size_that_contradicts_the_backbone(
    part: str, name: str, value: Any, expected: Any
) -> None:
    config = tiny_config()
    config[part][name] = value
    with pytest.raises(ValueError) as error:
        MODELS.build(config)
    _assert_says(error, [f"{name}={value!r}", repr(expected), "leave it out"])


@pytest.mark.parametrize("patch_size", [(4, 4), [4, 4], 4])
def test_size_that_agrees_is_accepted(patch_size: Any) -> None:
    config = tiny_config()
    config["neck"].update(embed_dims=16, num_heads=2, feedforward_channels=32)
    config["head"].update(embed_dims=16, patch_size=patch_size, in_channels=3)
    assert MODELS.build(config).head.patch_size == (4, 4)


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (16, 24)])
def test_input_of_another_size(size: tuple[int, int]) -> None:
    """At run time, for the size is not known before; in loss and predictions."""
    model = tiny_saim()
    images = torch.randn(2, 3, *size)
    for call in (model.loss, model.predict_patches):
        with pytest.raises(ValueError) as error:
            call(images)
        _assert_says(error, [str(size), "img_size=(8, 12)", "Crop"])
        _assert_says(error, [f"backbone.img_size={size}", "scale=(12, 8)"])


@pytest.mark.parametrize(
    "kind", ["LoadRandomResizedCrop", "Resize", "RandomResizedCrop"]
)
def test_remedies_for_another_size_help(kind: str, tmp_path: Path) -> None:
    """Both are followed to the letter, with images that are not square."""
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((40, 50, 3), np.uint8))

    def image(scale: tuple[int, int]) -> torch.Tensor:
        own = kind == "LoadRandomResizedCrop"
        steps = [] if own else [dict(type="LoadImage")]
        steps.append(dict(type=kind if own else f"mmpretrain.{kind}", scale=scale))
        steps.append(dict(type="mmpretrain.PackInputs"))
        results = Compose(steps)(dict(img_path=str(tmp_path / "image.png")))
        return results["inputs"][None].float()

    given = image((20, 16))
    with pytest.raises(ValueError) as error:
        tiny_saim().loss(given)
    remedy = str(error.value).partition("Set ")[2]
    size, first, second = (ast.literal_eval(s) for s in re.findall(r"\(.*?\)", remedy))
    tiny_saim(image_size=size).loss(given)
    tiny_saim().loss(image(second if kind == "RandomResizedCrop" else first))


@pytest.mark.parametrize("part", ["SAIM", "backbone", "neck", "head", "smoothing"])
def test_misspelt_keyword(part: str) -> None:
    """Never swallowed: each of the nested configs names what it does not know."""
    config = copy.deepcopy(tiny_config())
    nodes = dict(config, SAIM=config, smoothing=config["head"]["smoothing"])
    nodes[part]["dephts"] = 1
    with pytest.raises(TypeError, match="unexpected keyword argument 'dephts'"):
        MODELS.build(config)


def test_empty_smoothing_is_no_way_to_say_none() -> None:
    with pytest.raises(TypeError, match="kernel_size"):
        MODELS.build(tiny_config(smoothing={}))


# The parts on their own


def test_order_without_segments_to_tile() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\) does not tile.*\(6, 6\)"):
        OrderSampler("segments", (6, 6), (4, 4))


def test_head_alone() -> None:
    with pytest.raises(ValueError, match="projector='MLP'.*'mlp'"):
        SAIMHead(projector="MLP")
    with pytest.raises(ValueError, match="embed_dims=16.*num_heads=3"):
        SAIMHead(embed_dims=16, num_heads=3, projector="transformer")


def test_embedding_alone() -> None:
    with pytest.raises(ValueError, match="embed_dims=10.*multiple of 4"):
        sincos_position_embedding((2, 2), 10)


def test_vit_alone() -> None:
    with pytest.raises(ValueError, match="embed_dims=18.*multiple of 4"):
        MODELS.build(tiny_backbone(embed_dims=18, num_heads=3))


def test_unusual_options_that_are_right() -> None:
    """The edge of what is allowed trains: odd head width, one patch, big kernel."""
    for options in (
        dict(embed_dims=12, num_heads=4),
        dict(image_size=(4, 4)),
        dict(smoothing=dict(SMOOTHING, kernel_size=31)),
        dict(patch_size=(1, 1), image_size=(2, 3), channels=1, norm_pix=False),
        dict(order="segments", segment_size=(2, 3)),
        dict(order="segments", segment_size=[1, 1]),
    ):
        model = tiny_saim(**options)
        loss = model.loss(tiny_images(model, 2))["loss"]
        loss.backward()
        assert loss.isfinite()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad.isfinite().all(), name
