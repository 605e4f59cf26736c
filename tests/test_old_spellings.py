"""What configs, checkpoints and imports of version 0.1 say goes on working.

``data/old_names.json`` lists the registered types with their options and defaults, and
the names that could be imported from the package's folders. ``data/old_run`` is a run
that was stopped half-way: its config, its checkpoint and the losses of the whole run.
All were written at commit d29cb6e and are never written again.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine import registry as root
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import saim_mm
from saim_mm.launch import fit_to_machine

DATA = Path(__file__).parent / "data"
RUN = DATA / "old_run"
NAMES = json.loads((DATA / "old_names.json").read_text(encoding="utf-8"))
TYPES = [
    (registry, name, options)
    for registry, types in NAMES["types"].items()
    for name, options in types.items()
    if name != "CheckedCocoDataset"  # needs mmdet; configs import it by its path
]
#: Options by another name now, which the old one still sets.
RENAMED = {("SAIMNeck", "coupled"): "False"}
SCOPES = ["mmengine", "mmpretrain", "mmdet", "mmseg"]


def registered(registry: str, name: str, scope: str = "mmengine") -> Any:
    with DefaultScope.overwrite_default_scope(scope):
        return getattr(root, registry).get(name)


def import_old_path() -> Any:
    """``import saim_mm.checkpoint``, for the first time in a process."""
    for name in [n for n in sys.modules if n.startswith("saim_mm.checkpoint")]:
        del sys.modules[name]
    with pytest.warns(DeprecationWarning, match=r"saim_mm\.weights"):
        return importlib.import_module("saim_mm.checkpoint")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("registry", "name", "_"), TYPES, ids=lambda v: str(v)[:30])
def test_types_are_found_bare_and_scoped(registry, name, _, scope) -> None:
    if scope != "mmengine":
        pytest.importorskip(scope)
    cls = registered(registry, name, scope)
    assert cls is not None and cls.__name__ == name
    assert registered(registry, f"saim_mm.{name}", scope) is cls


@pytest.mark.parametrize(
    ("registry", "name", "options"), TYPES, ids=lambda v: str(v)[:30]
)
def test_options_keep_names_and_defaults(registry, name, options) -> None:
    cls = registered(registry, name)
    parameters = inspect.signature(cls.__init__).parameters
    for option, default in options.items():
        if option.startswith("*") or (name, option) in RENAMED:
            continue
        assert option in parameters, f"{name} has no {option}"
        given = parameters[option].default
        assert ("" if given is inspect.Parameter.empty else repr(given)) == default


def test_the_coco_dataset_is_found_by_the_old_path() -> None:
    pytest.importorskip("mmdet")
    module = importlib.import_module("saim_mm.datasets.checked_coco")
    for name in ("CheckedCocoDataset", "saim_mm.CheckedCocoDataset"):
        assert registered("DATASETS", name, "mmdet") is module.CheckedCocoDataset


@pytest.mark.parametrize("package", NAMES["imports"])
def test_names_are_imported_from_where_they_were(package: str) -> None:
    old_path = package == "saim_mm.checkpoint"
    module = import_old_path() if old_path else importlib.import_module(package)
    missing = [name for name in NAMES["imports"][package] if not hasattr(module, name)]
    assert not missing, f"from {package} import {', '.join(missing)}"


def test_an_old_name_is_the_new_one() -> None:
    from saim_mm import engine, reliability, weights

    checkpoint = import_old_path()
    assert checkpoint.load_encoder is weights.load_encoder
    assert checkpoint.CheckpointError is weights.CheckpointError
    for name in reliability.__all__:
        assert getattr(engine, name) is getattr(reliability, name)


def test_the_package_itself_uses_no_old_path() -> None:
    for name in [n for n in sys.modules if n.startswith("saim_mm.checkpoint")]:
        del sys.modules[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for package in NAMES["imports"]:
            if package != "saim_mm.checkpoint":
                importlib.import_module(package)
    assert "saim_mm.checkpoint" not in sys.modules


@pytest.mark.parametrize("tied", [False, True])
def test_coupled_is_an_option_of_the_decoder(tied: bool) -> None:
    sizes = dict(depth=2, embed_dims=16, num_heads=2, feedforward_channels=32)
    neck = registered("MODELS", "SAIMNeck")(**sizes, coupled=tied)
    assert len(neck.layers) == (0 if tied else 2)


def test_patch_order_is_a_sampler_of_orders() -> None:
    sampler = saim_mm.models.PatchOrder("segments", (2, 4), (2, 2))
    order = sampler.draw(3, torch.device("cpu"))
    assert torch.equal(order.sort(dim=1).values, torch.arange(8).expand(3, 8))


class LossRecorder(Hook):
    """Keeps the loss of every step, unsmoothed."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self.losses.append(outputs["loss"].item())


def losses(cfg: Config, work_dir: Path) -> list[float]:
    """Trains, and returns the loss of every step."""
    cfg.work_dir = str(work_dir)
    fit_to_machine(cfg)
    runner = Runner.from_cfg(cfg)
    recorder = LossRecorder()
    runner.register_hook(recorder)
    runner.train()
    return recorder.losses


@pytest.mark.parametrize("scope", ["", "saim_mm."])
def test_an_old_config_trains_to_the_same_losses(scope: str, tmp_path: Path) -> None:
    cfg = Config.fromfile(RUN / "config.py")
    for part in (cfg.model, cfg.model.backbone, cfg.model.neck, cfg.model.head):
        part.type = scope + part.type
    expected = json.loads((RUN / "losses.json").read_text())
    assert losses(cfg, tmp_path) == pytest.approx(expected, abs=1e-4)


def test_an_old_checkpoint_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    shutil.copy(RUN / "iter_10.pth", tmp_path)
    cfg = Config.fromfile(RUN / "config.py")
    cfg.resume = True  # finds it in the work dir, and compares its checksum
    expected = json.loads((RUN / "losses.json").read_text())
    assert losses(cfg, tmp_path) == pytest.approx(expected[10:], abs=1e-4)
