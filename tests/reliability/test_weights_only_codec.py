"""Plain values for everything that a runner puts into a checkpoint."""

from __future__ import annotations

import enum
import io
from collections import Counter, OrderedDict, deque
from datetime import datetime, timedelta, timezone
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

WHEN = datetime(2020, 1, 2, 3, 4, 5, 6, timezone(timedelta(hours=2)))


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
        (b"", b""),
        ({"a": (b"",)}, {"a": (b"",)}),
        (np.bytes_(b""), b""),
        (bytearray(b"xy"), b"xy"),
        (np.str_("a"), "a"),
        (deque([1, {2}], maxlen=3), deque([1, {2}], maxlen=3)),
        (deque(), deque()),
        ({frozenset({1})}, {frozenset({1})}),
        (WHEN, WHEN),
        (WHEN.date(), WHEN.date()),
        (WHEN.timetz(), WHEN.timetz()),
        (timedelta(-1, 2, 3), timedelta(-1, 2, 3)),
        (np.datetime64("2020-01-02"), WHEN.date()),
        (Counter({"a": 1, "b": -2}), Counter({"a": 1, "b": -2})),
    ],
)
def test_values(value: Any, expected: Any) -> None:
    result = through_a_file([value])[0]
    assert result == expected
    assert type(result) is type(expected)


NUMBERS = [*"?bBhHiIlLqQefdgFDG"]


@pytest.mark.parametrize("dtype", [*NUMBERS, ">f4", ">i8", "U3", ">U2", "S2"])
@pytest.mark.parametrize("columns", [3, 1])
def test_arrays(dtype: str, columns: int) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    view = array[::-1, columns:]
    view.setflags(write=False)
    result = through_a_file({"array": view})["array"]
    assert result.dtype == array.dtype
    assert result.shape == view.shape
    assert np.array_equal(result, view)
    result[...] = result  # it may be written


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
    for array in (np.array([None]), np.zeros(1, "M8[s]"), np.zeros(1, [("a", "i4")])):
        with pytest.raises(CheckpointError, match="optimizer: a numpy array of"):
            encode({"optimizer": array})
    with pytest.raises(CheckpointError, match=r"a: a numpy\.longdouble in a"):
        encode({"a": np.longdouble(1)})
    with pytest.raises(CheckpointError, match=r"a: a datetime\.timezone in a"):
        encode({"a": timezone.utc})
    with pytest.raises(CheckpointError, match=r"a datetime\.datetime as a key"):
        encode({"a": {WHEN: 1}})


def test_what_only_tells_about_the_run_is_left_out() -> None:
    info = {"epoch": 3, "writer": object(), "list": [object()]}
    plain = encode({"message_hub": {"runtime_info": info}, "meta": {"f": len}})
    assert plain == {"message_hub": {"runtime_info": {"epoch": 3}}, "meta": {}}


def test_what_is_shared_with_the_state_is_not_left_out_of_it() -> None:
    part = {"rule": len}
    for content in ({"meta": part, "optimizer": part}, {"optimizer": part, "meta": 1}):
        with pytest.raises(CheckpointError, match=r"optimizer\.rule: a builtins"):
            encode(content)


@pytest.mark.parametrize("join", [lambda x: [x, x], lambda x: {"a": x, "b": (x, x)}])
def test_shared_nesting_is_coded_once(join: Any) -> None:
    value: Any = [1, {2}]
    for _ in range(45):
        value = join(value)
    plain = encode({"x": value, "y": value})
    assert plain["x"] is plain["y"]
    decoded = through_a_file({"x": value})["x"]
    for _ in range(45):
        decoded = decoded[0] if isinstance(decoded, list) else decoded["b"][1]
    assert decoded == [1, {2}]


def test_endless_and_bottomless_nesting_is_named() -> None:
    loop: dict[str, Any] = {"lr": 0.1}
    loop["groups"] = [loop]
    deep: Any = 1
    for _ in range(5000):
        deep = (deep,)
    for value, named in (
        (loop, r"optimizer\.groups\[0\]: a builtins.dict"),
        (deep, ""),
    ):
        with pytest.raises(
            CheckpointError, match=f"{named}.*contains itself or is nes"
        ):
            encode({"optimizer": value})
    plain = encode({"meta": {"loop": loop, "epoch": 1}, "message_hub": {"x": deep}})
    found = {"loop": {"lr": 0.1}, "epoch": 1}
    assert plain == {"meta": found, "message_hub": {}}


def test_a_later_version_is_named() -> None:
    with pytest.raises(CheckpointError, match="'Quaternion'.*install the version"):
        decode({"x": {"__saim_mm_type__": "Quaternion"}})


@pytest.mark.parametrize(
    "part",
    [
        {"__saim_mm_type__": ["set"]},
        {"__saim_mm_type__": "set"},
        {"__saim_mm_type__": "set", "items": [[]]},
        {"__saim_mm_type__": "deque", "items": 3, "maxlen": -1},
        {"__saim_mm_type__": "datetime", "text": "x"},
        {"__saim_mm_type__": "timedelta", "parts": [1e300]},
        {"__saim_mm_type__": "ndarray", "array": 3},
        {"__saim_mm_type__": "ndarray", "data": torch.zeros(8), "dtype": "|O8"},
        *(
            dict(
                __saim_mm_type__="ndarray",
                data=torch.full((8,), 255, dtype=torch.uint8),
                dtype=dtype,
                shape=shape,
            )
            for dtype, shape in (
                ("|O8", [1]),
                ("<U2", [1]),  # no characters
                ("<f4", [3]),
                ("<f4", [-2]),
                ("<f4", 2),
                ("?f4", [2]),
                (None, [2]),
            )
        ),
    ],
)
def test_a_mark_without_what_it_needs_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="holds"):
        decode({"x": [part]})


@pytest.mark.parametrize("name", ["meta_optimizer", "message_hub2"])
def test_only_meta_and_message_hub_may_lose_a_part(name: str) -> None:
    """And no state of a hook, whatever its name begins with."""
    assert encode({"meta": {"a": object(), "b": 1}}) == {"meta": {"b": 1}}
    with pytest.raises(CheckpointError, match=f"{name}.a: a builtins.object"):
        encode({name: {"a": object(), "b": 1}})


def test_keys_that_become_one_are_refused() -> None:
    with pytest.raises(CheckpointError, match="Colour as a key becomes 3"):
        encode({"hook": {3: "a", Colour.RED: "b"}})
