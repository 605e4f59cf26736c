"""Each way to switch safe loading on does so before anything loads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_runs import build_runner, run_config
from mmengine.config import Config
from mmengine.runner import Runner

from saim_mm import launch
from saim_mm.weights import CheckpointError, uninstall_safe_loader

CONFIGS = Path(__file__).parents[2] / "configs"


class MakesFile:
    """A pickle that makes a file when it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


@pytest.fixture(autouse=True)
def unsafe() -> Iterator[None]:
    """As after an import: other tests switch it on."""
    uninstall_safe_loader()
    yield
    uninstall_safe_loader()


def runner_of(way: str, folder: Path, load_from: Path | None) -> Runner:
    config = run_config(folder / "run", max_epochs=1)
    config.update(load_from=load_from and str(load_from))
    if way != "SafeCheckpointHook":
        config["default_hooks"]["checkpoint"] = None
        del config["default_hooks"]["preemption"]  # which needs it
    if way == "SafeLoaderHook":
        config["custom_hooks"] = [dict(type="SafeLoaderHook")]
    data = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(type="Numbers", length=1),
    )
    for part in ("val", "test"):
        config[f"{part}_dataloader"] = data
        config[f"{part}_cfg"] = {}
        config[f"{part}_evaluator"] = []
    if way == "read_config":
        path = folder / "config.py"
        Config(config).dump(path)
        args = argparse.Namespace(
            config=str(path), cfg_options={}, launcher="none", work_dir=None
        )
        return Runner.from_cfg(launch.read_config(args))
    return build_runner(config)


def load(way: str, what: str, folder: Path) -> Path:
    """Loads a malicious file somehow; returns the file that it makes."""
    path, canary = folder / "bad.pth", folder / "canary"
    state = {"linear.weight": torch.zeros(4, 4), "linear.bias": torch.zeros(4)}
    torch.save(dict(state_dict=state, extra=MakesFile(canary)), path)
    runner = runner_of(way, folder, None if what == "init_cfg" else path)
    if what == "init_cfg":
        runner.model.init_cfg = dict(type="Pretrained", checkpoint=str(path))
    {"val": runner.val, "test": runner.test}.get(what, runner.train)()
    return canary


@pytest.mark.parametrize("what", ["train", "val", "test", "init_cfg"])
@pytest.mark.parametrize("way", ["SafeCheckpointHook", "SafeLoaderHook", "read_config"])
def test_nothing_is_run(way: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="would run code"):
        load(way, what, tmp_path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("what", ["train", "val", "test", "init_cfg"])
def test_without_any_of_them_it_would_be(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above would prove nothing."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # torch's default once
    assert load("none", what, tmp_path).exists()


def test_every_config_switches_it_on() -> None:
    """Also for those who run them with tools of other projects."""
    for path in CONFIGS.rglob("*.py"):
        if "_base_" in path.parts:
            continue
        cfg = Config.fromfile(path, import_custom_modules=False)
        hooks = [*cfg.get("default_hooks", {}).values(), *cfg.get("custom_hooks", ())]
        kinds = {hook["type"] for hook in hooks if hook}
        assert kinds & {"SafeCheckpointHook", "SafeLoaderHook"}, path


def test_who_initialises_a_model_by_itself_switches_it_on() -> None:
    """Scripts without a Runner; a config that they are given may name any weights."""
    root = CONFIGS.parent
    for path in [*(root / "tools").rglob("*.py"), *(root / "benchmarks").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if "init_weights" in text:
            assert "    install_safe_loader()" in text, path
