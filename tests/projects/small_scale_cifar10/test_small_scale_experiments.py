"""The suite's experiments: each is what its title says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from projects.small_scale_cifar10.experiments import EXPERIMENTS
from projects.small_scale_cifar10.models import model_config
from projects.small_scale_cifar10.scale import Scale
from projects.small_scale_cifar10.training import build
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
def test_experiment_is_what_its_title_says(
    tiny: Any, name: str, expected: tuple[Any, ...]
) -> None:
    scale = replace(tiny, depth=4)
    config = model_config(EXPERIMENTS[name], scale)
    assert options_of(build(config)) == expected


def test_an_option_that_nobody_reads_is_refused(tiny: Any) -> None:
    experiment = replace(EXPERIMENTS["saim"], options=dict(smothing=None))
    with pytest.raises(TypeError, match="smothing"):
        build(model_config(experiment, tiny))


def test_settings_go_through_json_and_the_command_line(tiny: Any) -> None:
    scale = tiny.changed(["pretrain_epochs=7", "rates=(1e-3,)"])
    assert (scale.pretrain_epochs, scale.rates, scale.width) == (7, (1e-3,), 16)
    assert Scale.from_json(json.loads(json.dumps(scale.as_json()))) == scale
    old = {k: v for k, v in scale.as_json().items() if k != "budgets"}
    assert Scale.from_json(old) == scale  # records from before there were budgets
    with pytest.raises(ValueError, match="'epochs=7' names none of"):
        tiny.changed(["epochs=7"])
    with pytest.raises(ValueError, match="no value that Python could read"):
        tiny.changed(["width=wide"])
