"""Types of other projects in a checkpoint: which load, and what to write for others."""

from __future__ import annotations

import argparse
import copy
import decimal
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_runs import build_runner, run_config
from mmengine.config import ConfigDict
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as loading
from mmengine.runner.checkpoint import load_checkpoint

import saim_mm
from saim_mm.reliability import SafeLoaderHook
from saim_mm.weights import (
    CheckpointError,
    install_safe_loader,
    read_checkpoint,
    uninstall_safe_loader,
)
from saim_mm.weights.safe_loader import load_from_local

STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


class Palette:
    """A type of another project."""

    def __init__(self, colours: list[int]) -> None:
        self.colours = colours


NAME = f"{Palette.__module__}.Palette"


@pytest.fixture(autouse=True)
def safe() -> Iterator[None]:
    install_safe_loader()
    yield
    uninstall_safe_loader()


@pytest.fixture(params=["as it is", "before 2.5"], autouse=True)
def any_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "before 2.5":
        monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)


def load(content: Any, folder: Path) -> Any:
    """Loads a model through MMEngine; returns what its file holds beside it."""
    path = folder / "foreign.pth"
    torch.save(dict(state_dict=STATE, meta=content), path)
    layer = torch.nn.Linear(3, 2)
    loaded = load_checkpoint(layer, str(path))
    assert all(torch.equal(layer.state_dict()[name], STATE[name]) for name in STATE)
    return loaded["meta"]


@pytest.mark.parametrize(
    "content",
    [
        ConfigDict(classes=("a", "b"), model=ConfigDict(type="ViT", depths=[1, 2])),
        dict(seed=np.uint32(3), rng=np.arange(4, dtype=np.uint32)),
        *(
            np.arange(3).astype(kind)
            for kind in ("?", "u1", "i1", "i2", "f2", "f4", "f8", "c16", "U4", "S4")
        ),
    ],
    ids=lambda content: str(getattr(content, "dtype", type(content).__name__)),
)
def test_what_projects_of_openmmlab_store_loads(tmp_path: Path, content: Any) -> None:
    loaded = load(content, tmp_path)
    assert type(loaded) is type(content)
    np.testing.assert_equal(loaded, content)


def test_a_command_line_is_left_out_unless_allowed(tmp_path: Path) -> None:
    args = argparse.Namespace(lr=0.1)
    assert not hasattr(load(args, tmp_path), "lr")
    install_safe_loader(allow=[argparse.Namespace])
    assert load(args, tmp_path).lr == 0.1


@pytest.mark.parametrize("way", ["class", "call", "config"])
def test_the_error_says_what_to_write(tmp_path: Path, way: str) -> None:
    """Word by word, one type after the other; it is good for our own reading, too."""
    content = dict(palette=Palette([1, 2]), rate=decimal.Decimal("1.5"))
    left = {NAME: Palette, "decimal.Decimal": decimal.Decimal}
    while left:
        with pytest.raises(CheckpointError, match="trust author and class") as error:
            load(content, tmp_path)
        with pytest.raises(CheckpointError, match="trust author and class"):
            read_checkpoint(tmp_path / "foreign.pth")
        said = re.search(
            r"call (.*\['(.*)'\]\)) before, or set (.*) in", str(error.value)
        )
        assert said is not None, error
        call, name, config = said.groups()
        kind = left.pop(name)
        if way == "class":
            install_safe_loader(allow=(kind,))
        elif way == "call":
            eval(call, dict(saim_mm=saim_mm))
        else:
            variables: dict[str, Any] = {}
            exec(config, variables)
            runner: Any = None
            (hook,) = variables["custom_hooks"]
            assert hook.pop("type") == "SafeLoaderHook"
            SafeLoaderHook(**hook).before_run(runner)
    for loaded in (
        load(content, tmp_path),
        read_checkpoint(tmp_path / "foreign.pth")["meta"],
    ):
        assert loaded["rate"] == content["rate"]
        assert type(loaded["palette"]) is Palette
        assert loaded["palette"].colours == [1, 2]


@pytest.mark.parametrize(
    ("allow", "message"),
    [
        ("os.system", "is no class, and reading"),
        ("builtins.eval", "is no class"),
        (print, "is no class"),
        ("no_such_package.Type", "is not there.*full name of a class"),
        ("argparse.NoSuchType", "is not there"),
    ],
)
def test_what_cannot_be_allowed(allow: Any, message: str) -> None:
    for call in (install_safe_loader, SafeLoaderHook):
        with pytest.raises(ValueError, match=message):
            call(allow=["argparse.Namespace", allow])


def test_the_list_of_torch_counts_too(tmp_path: Path) -> None:
    serialization = torch.serialization
    if not hasattr(serialization, "add_safe_globals"):
        pytest.skip("torch came to have it with 2.4")
    before = serialization.get_safe_globals()
    serialization.add_safe_globals([Palette, argparse.Namespace])
    try:
        assert load(Palette([3]), tmp_path).colours == [3]
        assert load(argparse.Namespace(lr=0.1), tmp_path).lr == 0.1
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def test_uninstalling_gives_all_back(tmp_path: Path) -> None:
    """Twice is once; what was allowed is so no longer."""

    def seen() -> list[Any]:
        allowed = getattr(loading, "get_torch_safe_globals", None)
        return [dict(CheckpointLoader._schemes), allowed]

    uninstall_safe_loader()
    before = seen()
    assert load_from_local not in before[0].values()
    install_safe_loader(allow=[Palette])
    install_safe_loader()
    assert load_from_local in seen()[0].values()
    assert seen()[1] != before[1] or before[1] is None
    assert load(Palette([1]), tmp_path).colours == [1]
    uninstall_safe_loader()
    uninstall_safe_loader()
    assert seen() == before
    install_safe_loader()
    with pytest.raises(CheckpointError, match="trust author"):
        load(Palette([1]), tmp_path)


def test_python_s_own_types_can_be_named_as_torch_does(tmp_path: Path) -> None:
    install_safe_loader(allow=["slice"])
    assert load(slice(1, 2), tmp_path) == slice(1, 2)


def test_what_no_list_makes_readable_is_told(tmp_path: Path) -> None:
    """Torch fills no dicts but its own three kinds; then the way out is another."""
    content = defaultdict(list, b=[1])
    install_safe_loader(allow=[defaultdict, "list"])
    if not hasattr(torch.serialization, "safe_globals"):  # Python's reader fills all
        assert load(content, tmp_path) == content
        return
    with pytest.raises(CheckpointError, match="foreign.pth: refused.*uninstall_safe"):
        load(content, tmp_path)
    uninstall_safe_loader()
    loaded = torch.load(tmp_path / "foreign.pth", weights_only=False)
    assert loaded["meta"] == content


def test_a_config_may_allow_what_its_weights_need(tmp_path: Path) -> None:
    """Beside ``SafeCheckpointHook``, which switches safe loading on, too."""
    path = tmp_path / "foreign.pth"
    state = {"linear.weight": torch.ones(4, 4), "linear.bias": torch.ones(4)}
    torch.save(dict(state_dict=state, meta=dict(palette=Palette([1]))), path)
    config = run_config(tmp_path / "run", max_epochs=1, load_from=str(path))
    with pytest.raises(CheckpointError, match=NAME):
        build_runner(copy.deepcopy(config)).train()
    config["custom_hooks"] = [dict(type="SafeLoaderHook", allow=[NAME])]
    config["experiment_name"] += "_allowed"
    build_runner(config).train()
