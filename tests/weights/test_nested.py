"""What is nested in anything is replaced, each part once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from saim_mm.weights.nested import replace_nested


def upper(value: Any) -> Any:
    return "IT" if value == ("it",) else value


def test_attributes_of_a_dict_are_walked() -> None:
    """As the versions that torch keeps beside a state dict."""
    state: Any = OrderedDict(a=("it",))
    state._metadata = {"": dict(version=("it",))}
    assert replace_nested(state, upper) is state
    assert state["a"] == state._metadata[""]["version"] == "IT"


def test_what_is_shared_stays_shared_and_circles_end() -> None:
    shared: list[Any] = [("it",)]
    circle: dict[str, Any] = dict(a=shared, b=shared)
    circle["self"] = circle
    result = replace_nested(circle, upper)
    assert result["a"] is result["b"] and result["a"] == ["IT"]
    assert result["self"] is result
