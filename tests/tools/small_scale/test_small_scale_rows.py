"""The suite's rows: each is what its title says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from saim_mm.models import SAIM


def options_of(model: SAIM) -> tuple[Any, ...]:
    taps = getattr(model.head.blur, "taps", None)
    smoothing = None
    if taps is not None:
        middle = len(taps) // 2
        sigma = (2 * math.log(taps[middle] / taps[middle - 1])) ** -0.5
        smoothing = (len(taps), round(sigma, 3))
    return (
        model.order_sampler.kind, len(model.neck.layers), model.neck.tied_decoder,
        smoothing, model.head.loss_kind, model.head.norm_pix,
        model.order_sampler.query_share,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "saim": ("stochastic", 4, False, (9, 1.0), "l2", True, 1),
        "raster": ("raster", 0, False, None, "l2", True, 1),
        "raster-decoder": ("raster", 4, False, None, "l2", True, 1),
        "stochastic": ("stochastic", 4, False, None, "l2", True, 1),
        "coupled": ("stochastic", 0, True, None, "l2", True, 1),
        "decoder-half": ("stochastic", 2, False, None, "l2", True, 1),
        "decoder-1": ("stochastic", 1, False, None, "l2", True, 1),
        "smooth-3": ("stochastic", 4, False, (3, 1.0), "l2", True, 1),
        "smooth-3-half": ("stochastic", 4, False, (3, 0.5), "l2", True, 1),
        "mse": ("stochastic", 4, False, (9, 1.0), "l2", False, 1),
        "l1": ("stochastic", 4, False, (9, 1.0), "l1", False, 1),
        "query-half": ("stochastic", 4, False, (9, 1.0), "l2", True, 0.5),
        "query-quarter": ("stochastic", 4, False, (9, 1.0), "l2", True, 0.25),
        "segments": ("segments", 4, False, None, "l2", True, 1),
    }.items(),
)
def test_row_is_what_its_title_says(
    suite: SimpleNamespace, tiny: Any, name: str, expected: tuple[Any, ...]
) -> None:
    scale = replace(tiny, depth=4)
    config = suite.rows.model_config(suite.rows.ROWS[name], scale)
    assert options_of(suite.training.build(config)) == expected


def test_an_option_that_nobody_reads_is_refused(
    suite: SimpleNamespace, tiny: Any
) -> None:
    row = replace(suite.rows.ROWS["saim"], options=dict(smothing=None))
    with pytest.raises(TypeError, match="smothing"):
        suite.training.build(suite.rows.model_config(row, tiny))


def test_settings_go_through_json_and_the_command_line(
    suite: SimpleNamespace, tiny: Any
) -> None:
    scale = tiny.changed(["pretrain_epochs=7", "rates=(1e-3,)"])
    assert (scale.pretrain_epochs, scale.rates, scale.width) == (7, (1e-3,), 16)
    assert suite.rows.Scale.from_json(json.loads(json.dumps(scale.as_json()))) == scale
    with pytest.raises(ValueError, match="'epochs=7' names none of"):
        tiny.changed(["epochs=7"])
    with pytest.raises(ValueError, match="no value that Python could read"):
        tiny.changed(["width=wide"])
