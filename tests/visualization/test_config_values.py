"""Configs are read without being run."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from saim_mm.visualization.config_values import config_values, differing_values


def test_the_options_of_a_config_as_mmengine_writes_it() -> None:
    text = Config(
        dict(
            model=dict(type="SAIM", size=[32, 32], neck=None),
            hooks=[dict(type="A", n=1), dict(type="B")],
            plain=-1.5,
            keys={"a.b": 2},
            nothing=dict(),
        )
    ).pretty_text
    assert config_values(text) == {
        "hooks.0.type": "'A'",
        "hooks.0.n": "1",
        "hooks.1.type": "'B'",
        "keys.a.b": "2",
        "model.neck": "None",
        "model.size": "[32, 32]",
        "model.type": "'SAIM'",
        "nothing": "dict()",
        "plain": "-1.5",
    }


def test_what_differs() -> None:
    texts = ("a = dict(x=1, y=2)", "a = dict(x=1, y=3)\nb = 4", "a = dict(x=1, y=2)")
    configs = [config_values(text) for text in texts]
    assert differing_values(configs) == {"a.y": ["2", "3", "2"], "b": ["-", "4", "-"]}
    assert differing_values(configs[:1] * 2) == {}


@pytest.mark.parametrize(
    "part", ["[", "-", "a.", "1+", "f(", "x if y else ", "\0", "="]
)
def test_nothing_is_run_and_no_text_is_too_odd(part: str) -> None:
    assert config_values("a = " + part * 50_000 + "b") == {}
    assert config_values("a = print(1)\nraise SystemExit") == {"a": "print(1)"}
