"""No member of the family sees its own patch, in whatever way its parts are combined.

Combinations that are refused when built are passed over; that each has its message is
proved beside its part.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from dependence import dependence
from mmpretrain.registry import MODELS
from tiny import randomise, tiny_config, tiny_images

from saim_mm.models import SAIM

ORDERS: dict[str, dict[str, Any]] = {
    "stochastic": dict(),
    "raster": dict(order="raster"),
    "segments": dict(order="segments", segment_size=(1, 2)),
    "raster-segments": dict(
        order="segments", segment_size=(1, 2), segment_order="raster"
    ),
    "groups": dict(
        order="segments",
        segment_size=(1, 2),
        segment_order=dict(type="HierarchicalSegments", group_size=(1, 2)),
    ),
}
READINGS: dict[str, dict[str, Any] | None] = {
    "whole": None,
    "fixed": dict(type="FixedReading", read=4, asked=3),
    "after": dict(type="FixedReading", read=4, asks="after", content="all"),
    "cut": dict(type="CutReading", asked=2),
    "strata": dict(type="StrataReading", strata=2),
    "prefix": dict(type="PrefixReading"),
    "prefix-4": dict(type="PrefixReading", prefix=4, asked=2),
    "prefix-part": dict(type="PrefixReading", prefix=2, read=4),
}
NECKS: dict[str, dict[str, Any]] = {
    "none": dict(depth=0),
    "aligned": dict(depth=2),
    "tied": dict(depth=2, tied_decoder=True),
    "last": dict(depth=1, neck=dict(memory="last")),
    "mix": dict(depth=3, neck=dict(type="LayerMixNeck", mix_input=True)),
    "aim": dict(neck=dict(_delete_=True, type="AIMNeck")),
    "randsac": dict(depth=2, neck=dict(type="RandSACNeck")),
    "crossmae": dict(
        neck=dict(
            _delete_=True, type="CrossMAENeck", depth=2, width=24, decoder_heads=2
        )
    ),
}
HEADS: dict[str, dict[str, Any]] = {
    "mlp": dict(),
    "transformer": dict(projector="transformer"),
    "aim": dict(head=dict(_delete_=True, type="AIMHead", num_blocks=1, width=24)),
    "block": dict(head=dict(_delete_=True, type="BlockHead", width=24)),
    "embedding": dict(head=dict(_delete_=True, type="EmbeddingHead")),
}
BACKBONES: dict[str, dict[str, Any]] = {
    "cls": dict(),
    "no-cls": dict(with_cls_token=False),
    "rotary": dict(type="RotaryViT", qk_norm="plain"),
    "registers": dict(type="RegisterViT", num_registers=2),
    "last-cls": dict(type="RegisterViT", cls_place="suffix"),
    "registers-last-cls": dict(type="RegisterViT", num_registers=1, cls_place="suffix"),
}


def options_of(*names: str) -> dict[str, Any]:
    order, reading, neck, head, backbone = names
    return dict(
        image_size=(8, 16),
        num_layers=2 if neck != "mix" else 3,
        reading=READINGS[reading],
        smoothing=None,
        **ORDERS[order],
        **NECKS[neck],
        **HEADS[head],
        **BACKBONES[backbone],
    )


def member(*names: str) -> SAIM | None:
    """The model, or ``None`` where it is refused with a message of its own."""
    options = options_of(*names)
    config = tiny_config(**options)
    if names[3] == "embedding":
        config["type"] = "NEPA"
    try:
        model = MODELS.build(config)
    except ValueError:
        return None
    randomise(model, 0)
    return model


def prove(model: SAIM) -> None:
    """Rank t depends on what was read before its segment, and on nothing else."""
    images = tiny_images(model, 2)
    plan = model.plan(images)
    rows = partial(model.predict_asked, plan=plan)
    seen = dependence(rows, images, plan.order, (4, 4))
    length, ranks = plan.segment_length, torch.arange(8)
    asked = ranks if plan.query_ranks is None else plan.query_ranks
    expected = ranks < (asked // length * length)[:, None]
    expected &= ranks < plan.num_read
    assert torch.equal(seen, expected.expand_as(seen))


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("neck", NECKS)
def test_no_member_sees_its_own_patch(order: str, neck: str) -> None:
    """Every reading and head, with the encoders by turns: a drawn plan of each."""
    torch.manual_seed(0)
    built, encoders = 0, itertools.cycle(BACKBONES)
    for reading, head in itertools.product(READINGS, HEADS):
        for backbone in (next(encoders), next(encoders)):
            model = member(order, reading, neck, head, backbone)
            if model is not None:
                prove(model)
                built += 1
    refused = neck in ("none", "aim") and order != "raster"
    assert (built == 0) == refused
    assert built < 2 * len(READINGS) * len(HEADS)
