"""Files that try to run code, through every way by which MMEngine loads one."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_runs import build_runner, run_config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as loading
from mmengine.runner.checkpoint import _load_checkpoint, load_checkpoint

from saim_mm.weights import CheckpointError, safe_loader, verify_checkpoint
from saim_mm.weights.resume import find_newest


class Attack:
    """A pickle that makes a file when it is read without care."""

    def __init__(self, canary: Path, by: str) -> None:
        self.canary, self.by = str(canary), by

    def __reduce__(self) -> tuple[Any, ...]:
        if self.by == "system":
            return os.system, (f"touch {self.canary}",)
        if self.by == "eval":
            return eval, (f"open({self.canary!r}, 'w')",)
        return open, (self.canary, "w")


ATTACKS = {"system": "posix.system", "eval": "eval", "open": "open"}


@pytest.fixture(autouse=True)
def safe() -> Iterator[None]:
    safe_loader.install_safe_loader()
    yield
    safe_loader.uninstall_safe_loader()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def malicious(path: Path, canary: Path, by: str = "system", **options: Any) -> Path:
    content = dict(
        meta=dict(epoch=1, iter=6),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
        state_dict={"linear.weight": torch.zeros(4, 4), "linear.bias": torch.zeros(4)},
        extra=Attack(canary, by),
    )
    torch.save(content, path, **options)
    return path


@pytest.fixture(params=["as it is", "before 2.5"])
def any_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's list of allowed names, and where it cannot be added to."""
    if request.param == "before 2.5":
        monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)


@pytest.mark.usefixtures("any_torch")
@pytest.mark.parametrize("by", ATTACKS)
@pytest.mark.parametrize("zipped", [True, False])
def test_refused_with_the_name_it_asked_for(
    tmp_path: Path, canary: Path, by: str, zipped: bool
) -> None:
    path = malicious(
        tmp_path / "bad.pth", canary, by, _use_new_zipfile_serialization=zipped
    )
    ways = (
        lambda: _load_checkpoint(str(path)),
        lambda: CheckpointLoader.load_checkpoint(str(path)),
        lambda: load_checkpoint(torch.nn.Linear(1, 1), str(path)),
        lambda: verify_checkpoint(path),
    )
    for load in ways:
        with pytest.raises(CheckpointError, match=f"run code.*{ATTACKS[by]}"):
            load()
    assert not canary.exists()
    torch.load(path, weights_only=False)  # where nothing holds it back
    assert canary.exists()


@pytest.mark.usefixtures("any_torch")
def test_a_bare_pickle_is_refused(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps(Attack(canary, "system")))
    with pytest.raises(CheckpointError):
        _load_checkpoint(str(path))
    assert not canary.exists()


@pytest.mark.parametrize("resume", [True, False])
def test_load_from_and_resume(tmp_path: Path, canary: Path, resume: bool) -> None:
    path = malicious(tmp_path / "bad.pth", canary)
    config = run_config(tmp_path / "run", load_from=str(path), resume=resume)
    with pytest.raises(CheckpointError, match="posix.system"):
        build_runner(config).train()
    assert not canary.exists()


def test_automatic_resume_skips_it(tmp_path: Path, canary: Path) -> None:
    malicious(tmp_path / "epoch_1.pth", canary)
    newest = find_newest(tmp_path)
    assert newest.path is None
    assert "posix.system" in newest.skipped[0]
    assert not canary.exists()


def test_init_cfg(tmp_path: Path, canary: Path) -> None:
    path = malicious(tmp_path / "bad.pth", canary)
    module = BaseModule(init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    with pytest.raises(CheckpointError, match="posix.system"):
        module.init_weights()
    assert not canary.exists()


def test_other_sources_are_held_to_the_same(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loaders of addresses unpickle; here one that fetches from a folder."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    # As some set it to make old files load; it must not reach these.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

    @CheckpointLoader.register_scheme(prefixes="shelf://")
    def load_from_shelf(filename: str, map_location: Any = None) -> Any:
        return torch.load(tmp_path / filename[8:], map_location, weights_only=False)

    safe_loader.install_safe_loader()
    malicious(tmp_path / "bad.pth", canary)
    torch.save(
        {"state_dict": {"a": torch.ones(2)}, "history": HistoryBuffer([1.0], [1])},
        tmp_path / "good.pth",
    )
    with pytest.raises(CheckpointError, match=r"shelf://bad.pth.*posix.system"):
        _load_checkpoint("shelf://bad.pth")
    assert not canary.exists()
    good = _load_checkpoint("shelf://good.pth")
    assert torch.equal(good["state_dict"]["a"], torch.ones(2))
    assert good["history"].current() == 1.0
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_every_loader_is_safe() -> None:
    prefixes = set(CheckpointLoader._schemes)
    assert {"", "http://", "https://", "open-mmlab://", "torchvision://"} <= prefixes
    assert set(CheckpointLoader._schemes.values()) <= safe_loader._originals.keys()


def test_a_config_in_a_checkpoint_is_not_executed(tmp_path: Path, canary: Path) -> None:
    """MMEngine's runner executes ``meta.config``, if a checkpoint has one."""
    first = build_runner(run_config(tmp_path / "a", max_epochs=1))
    first.train()
    content = torch.load(tmp_path / "a/epoch_1.pth", weights_only=True)
    content["meta"]["config"] = f"import os\nos.system('touch {canary}')\n"
    path = tmp_path / "bad.pth"
    torch.save(content, path)
    config = run_config(tmp_path / "b", max_epochs=2, load_from=str(path), resume=True)
    runner = build_runner(config)
    runner.train()
    assert runner.iter == 12
    assert not canary.exists()


@pytest.mark.usefixtures("any_torch")
def test_checkpoints_of_mmengine_itself_resume(tmp_path: Path) -> None:
    """Log histories and numpy numbers come back as what they were."""
    hook = dict(type="CheckpointHook", interval=1)
    config = run_config(tmp_path / "a", max_epochs=1)
    config["default_hooks"].update(checkpoint=hook)
    del config["default_hooks"]["preemption"]
    first = build_runner(config)
    first.message_hub.update_info("best_score", np.float64(0.5))
    first.train()
    path = tmp_path / "a/epoch_1.pth"
    with zipfile.ZipFile(path) as file:
        assert b"HistoryBuffer" in file.read("archive/data.pkl")
    second = build_runner(
        run_config(tmp_path / "b", max_epochs=2, load_from=str(path), resume=True)
    )
    methods = dict(HistoryBuffer._statistics_methods)
    second.train()
    assert second.iter == 12
    assert second.message_hub.get_info("best_score") == 0.5
    history = second.message_hub.get_scalar("train/loss")
    assert type(history) is HistoryBuffer
    assert len(history.data[0]) == 12
    assert HistoryBuffer._statistics_methods == methods


def test_methods_of_a_history_stay_in_the_file(tmp_path: Path) -> None:
    """In the loaders of OneDL's MMEngine, too, which allow ``getattr``."""
    path = tmp_path / "history.pth"
    torch.save({"history": HistoryBuffer([1.0], [1])}, path)
    methods = dict(HistoryBuffer._statistics_methods)
    read = getattr(loading, "_safe_torch_load", _load_checkpoint)
    history = read(str(path), map_location="cpu")["history"]
    assert type(history) is HistoryBuffer
    assert history.mean() == 1.0
    assert HistoryBuffer._statistics_methods == methods


def test_each_name_has_one_stand_in() -> None:
    """Torch keeps them in a set: of two for one name it takes either, by chance."""
    names = [name for _, name in safe_loader.known_globals()]
    assert len(names) == len(set(names))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.pth"):
        _load_checkpoint(str(tmp_path / "none.pth"))
