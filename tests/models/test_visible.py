"""An encoder that is used with the mask of its pretraining, or without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dependence import dependence
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from tiny import randomise, relative, tiny_backbone, tiny_images, tiny_saim

from saim_mm.evaluation import FeatureExtractor

CPU = torch.device("cpu")


@pytest.mark.parametrize("cls", [False, True])
def test_causal_features_are_those_of_raster_pretraining(cls: bool) -> None:
    """Of every layer, and after a final norm those of the norm."""
    options: dict[str, Any] = dict(visible="causal", with_cls_token=cls)
    model = tiny_saim(
        order="raster",
        reading=dict(type="PrefixReading", prefix=2),
        out_indices=[0, 1, 2, 3],
        **options,
    )
    images = tiny_images(model, 2)
    family = model.order_sampler
    plan = family.plan_of(family.draw(2, CPU), range(1, 6))
    states = model.backbone(images, plan).states
    for ours, theirs in zip(model.backbone(images), states, strict=True):
        assert relative(ours, theirs) < 1e-6

    normed = MODELS.build(tiny_backbone(final_norm=True, **options))
    randomise(normed, 0)
    normed.load_state_dict(model.backbone.state_dict(), strict=False)
    (last,) = normed(images)
    assert relative(last, normed.ln1(states[-1])) < 1e-6


@pytest.mark.parametrize("visible", ["all", "causal"])
def test_which_patches_features_see(visible: str) -> None:
    model = tiny_saim(visible=visible, out_type="raw")
    images = tiny_images(model, 4)
    order = torch.arange(6).expand(4, -1)
    seen = dependence(lambda x: model.backbone(x)[-1][:, 1:], images, order, (4, 4))
    everything = torch.ones(6, 6, dtype=torch.bool)
    expected = everything.tril() if visible == "causal" else everything
    assert torch.equal(seen, expected.expand_as(seen))


def test_training_does_not_look_at_it() -> None:
    losses = set()
    for visible in ("all", "causal"):
        model = tiny_saim(visible=visible)
        torch.manual_seed(0)
        losses.add(model.loss(tiny_images(model, 2))["loss"].item())
    assert len(losses) == 1


def test_map_of_another_size() -> None:
    backbone = MODELS.build(tiny_backbone(visible="causal", out_type="featmap"))
    (features,) = backbone(torch.randn(2, 3, 16, 24))
    assert features.shape == (2, 16, 4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(visible="some"), "'all', 'causal'"),
        (dict(visible="causal", out_type="cls_token"), "avg_featmap"),
        (dict(visible="causal", window_size=2, with_cls_token=False), "windows"),
        (dict(visible="causal", use_rel_pos_bias=True, with_cls_token=False), "bias"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build(tiny_backbone(**options))


def test_a_class_token_that_sees_nothing_is_no_feature() -> None:
    backbone = MODELS.build(tiny_backbone(visible="causal"))
    with pytest.raises(ValueError, match="visible='causal'.*pool='avg'"):
        FeatureExtractor(backbone, SelfSupDataPreprocessor(), pool="cls")
    FeatureExtractor(backbone, SelfSupDataPreprocessor(), pool="avg")
