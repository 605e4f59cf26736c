"""Plain values for everything that a runner puts into a checkpoint."""

from __future__ import annotations

import enum
import io
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from saim_mm.reliability.weights_only_codec import decode, encode
from saim_mm.weights import CheckpointError
from saim_mm.weights.allowed_types import allowing


class Colour(enum.Enum):
    RED = 3


class Index(int):
    pass


def through_a_file(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(encode(value), buffer)
    buffer.seek(0)
    with allowing(()):  # the same without, since torch 2.5
        return decode(torch.load(buffer, weights_only=True))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.1), 0.1),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (Index(5), 5),
        (Colour.RED, 3),
        (Path("a/b"), "a/b"),
        (Counter({3: 2}), Counter({3: 2})),
        ({1, 2}, {1, 2}),
        (ConfigDict(a=ConfigDict(b=(1, [2]))), {"a": {"b": (1, [2])}}),
        ({Index(1): "x", None: b"y"}, {1: "x", None: b"y"}),
        (complex(1, 2), complex(1, 2)),
    ],
)
def test_values(value: Any, expected: Any) -> None:
    result = through_a_file([value])[0]
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", "uint8"])
def test_arrays(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    view = array[::-1, 1:]
    view.setflags(write=False)
    result = through_a_file({"array": view})["array"]
    assert result.dtype == array.dtype
    assert np.array_equal(result, view)


def test_history_is_bit_for_bit_the_same() -> None:
    history = HistoryBuffer(max_length=5)
    for value in (0.1, float("nan"), 1 / 3, -0.0, 1e-320, 7.0):
        history.update(value, 2)
    result = through_a_file(history)
    assert type(result) is HistoryBuffer
    assert result.max_length == 5
    for ours, theirs in zip(result.data, history.data, strict=True):
        assert ours.tobytes() == theirs.tobytes()
        assert ours.dtype == theirs.dtype
    result.update(1.0)
    assert result.current() == 1.0
    assert result.max(2) == 7.0


def test_a_state_dict_keeps_its_versions_and_tensors() -> None:
    state = torch.nn.BatchNorm1d(3).state_dict()
    plain = encode({"state_dict": state})["state_dict"]
    assert type(plain) is OrderedDict
    assert plain._metadata == state._metadata  # type: ignore[attr-defined]
    assert all(plain[key] is state[key] for key in state)


def test_state_that_has_no_plain_form_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"optimizer\.groups\[1\]\.rule.*function"
    ):
        encode({"optimizer": {"groups": [{}, {"rule": test_values}]}})
    with pytest.raises(CheckpointError, match="numpy array of object"):
        encode({"optimizer": np.array([None])})


def test_what_only_tells_about_the_run_is_left_out() -> None:
    info = {"epoch": 3, "writer": object(), "list": [object()]}
    plain = encode({"message_hub": {"runtime_info": info}, "meta": {"f": len}})
    assert plain == {"message_hub": {"runtime_info": {"epoch": 3}}, "meta": {}}


def test_a_later_version_is_named() -> None:
    with pytest.raises(CheckpointError, match="'Quaternion'.*install the version"):
        decode({"x": {"__saim_mm_type__": "Quaternion"}})
