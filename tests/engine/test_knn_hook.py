"""The kNN hook: it sees what it should and changes nothing."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import HOOKS
from PIL import Image
from tiny import tiny_saim

import saim_mm  # noqa: F401  (registers the hook)
from saim_mm.datasets.class_folders import split_class_folders
from saim_mm.evaluation import FeatureExtractor, knn_accuracy

ROOT = Path(__file__).parents[2]
COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 50, 40)}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Seven images of three classes to learn from, five to judge."""
    rng = np.random.default_rng(0)
    for folder, counts in (("train", (3, 2, 2)), ("val", (2, 1, 2))):
        for (name, colour), count in zip(COLOURS.items(), counts, strict=True):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(count):
                image = np.array(colour) + rng.normal(0, 90, (40, 40, 3))
                image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
                image.save(tmp_path / folder / name / f"{i}.png")
    return tmp_path


@pytest.fixture(autouse=True)
def unformatted_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine formats a config several times a run, which takes most of a tiny one."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: "a = 1\n"))


class Recorder(Hook):
    """The exact losses, and the gradients and modes that the next step meets."""

    priority = "VERY_LOW"  # after KNNHook

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.states: list = []

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        self.losses.append(outputs["loss"].item())

    def after_train_epoch(self, runner) -> None:
        pending = [
            p.grad.clone() for p in runner.model.parameters() if p.grad is not None
        ]
        modes = [module.training for module in runner.model.modules()]
        self.states.append((pending, modes, torch.get_rng_state()))


def train(work_dir: Path, *hooks: dict | Hook) -> tuple[Runner, Recorder]:
    cfg = Config.fromfile(ROOT / "configs/saim/saim_debug.py")
    cfg.work_dir = str(work_dir)
    cfg.train_dataloader.dataset.num_images = 128
    cfg.train_cfg.max_epochs = 3
    cfg.model.backbone.drop_path_rate = 0.3  # draws in training mode only
    cfg.custom_hooks = [hook for hook in hooks if isinstance(hook, dict)]
    # Four iterations an epoch: gradients of one or two are pending at its end.
    cfg.optim_wrapper.accumulative_counts = 3
    cfg.train_dataloader.pin_memory = False
    cfg.log_level = "ERROR"
    runner = Runner.from_cfg(cfg)
    recorder = Recorder()
    for hook in (recorder, *hooks[len(cfg.custom_hooks) :]):
        runner.register_hook(hook)
    runner.train()
    return runner, recorder


def knn_hook(folders: Path, **options) -> dict:
    return dict(
        type="KNNHook", data_root=str(folders), **{"k": 3, "num_workers": 0, **options}
    )


def test_losses_are_the_same_bit_by_bit_with_and_without(folders, tmp_path) -> None:
    _, without = train(tmp_path / "without")
    runner, with_hook = train(
        tmp_path / "with", knn_hook(folders, interval=1, num_workers=1)
    )
    assert len(without.losses) == 12
    assert with_hook.losses == without.losses
    assert without.states[0][0]
    for (grads_a, modes_a, rng_a), (grads_b, modes_b, rng_b) in zip(
        without.states, with_hook.states, strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(grads_a, grads_b, strict=True))
        assert modes_a == modes_b
        assert torch.equal(rng_a, rng_b)

    (scalars,) = (tmp_path / "with").rglob("scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    logged = [line for line in lines if "accuracy/knn" in line]
    assert [line["step"] for line in logged] == [1, 2, 3]

    # The last number is that of the weights as they are now.
    model = runner.model
    bank, queries = split_class_folders(folders, (32, 32))
    extractor = FeatureExtractor(model.backbone, model.data_preprocessor)
    accuracy = knn_accuracy(extractor.extract(queries), extractor.extract(bank), k=3)
    assert logged[-1]["accuracy/knn"] == pytest.approx(accuracy)
    history, _ = runner.message_hub.get_scalar("val/accuracy/knn").data
    assert history[-1] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (dict(interval=2), [2, 3]),  # the last epoch too
        (dict(interval=5, by_epoch=False), [5, 10, 12]),
    ],
)
def test_interval(options, steps, folders, tmp_path) -> None:
    train(tmp_path / "run", knn_hook(folders, **options))
    (scalars,) = (tmp_path / "run").rglob("scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [line["step"] for line in lines if "accuracy/knn" in line] == steps


def test_bad_options_end_the_run_at_its_start(folders, tmp_path) -> None:
    with pytest.raises(ValueError, match="interval=0"):
        HOOKS.build(knn_hook(folders, interval=0))
    with pytest.raises(ValueError, match="k=20.* more than the 7 images"):
        train(tmp_path / "a", knn_hook(folders, k=20))
    with pytest.raises(FileNotFoundError, match="train/<class>/"):
        train(tmp_path / "b", knn_hook(tmp_path / "b"))


def break_images(folders: Path) -> None:
    """One of each set; a third is gone, as if removed after the start."""
    (folders / "train" / "red" / "0.png").write_bytes(b"no image")
    (folders / "val" / "blue" / "0.png").unlink()
    os.mkfifo(folders / "val" / "blue" / "0.png")
    (folders / "val" / "red" / "1.png").unlink()


class BreakImages(Hook):
    """After the other hooks have found them."""

    priority = "LOWEST"

    def __init__(self, folders: Path) -> None:
        self.folders = folders
        self.warnings: list[str] = []

    def before_train(self, runner) -> None:
        runner.logger.warning = self.warnings.append
        break_images(self.folders)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_broken_images_are_left_out(folders, tmp_path, num_workers) -> None:
    _, without = train(tmp_path / "without")
    hook = knn_hook(folders, interval=2, num_workers=num_workers)
    breaking = BreakImages(folders)
    runner, recorder = train(tmp_path / "with", hook, breaking)
    assert recorder.losses == without.losses
    bank, queries = breaking.warnings[-2:]
    assert "1 of 7 images cannot be loaded" in bank
    assert "2 of 5 images cannot be loaded" in queries
    for path, warning in (("train/red/0", bank), ("val/blue/0", queries)):
        assert str(folders / f"{path}.png") in warning

    for path in ("train/red/0", "val/blue/0"):
        (folders / f"{path}.png").unlink()
    extractor = FeatureExtractor(runner.model.backbone, runner.model.data_preprocessor)
    bank, queries = map(extractor.extract, split_class_folders(folders, (32, 32)))
    history, _ = runner.message_hub.get_scalar("val/accuracy/knn").data
    assert history[-1] == pytest.approx(knn_accuracy(queries, bank, k=3))


def test_no_evaluation_without_images(folders, tmp_path) -> None:
    hook, breaking = knn_hook(folders, k=7), BreakImages(folders)  # all that there are
    runner, recorder = train(tmp_path / "run", hook, breaking)
    assert len(recorder.losses) == 12
    assert breaking.warnings[-1] == "accuracy/knn: too few images that load."
    assert "val/accuracy/knn" not in runner.message_hub.log_scalars


def evaluate(folders: Path) -> tuple[torch.Tensor, torch.Tensor, float]:
    torch.manual_seed(0)
    model = tiny_saim(image_size=(32, 32), patch_size=(8, 8))
    model.data_preprocessor = SelfSupDataPreprocessor([120.0], [60.0])
    hook = HOOKS.build(knn_hook(folders, batch_size=2))
    runner = SimpleNamespace(model=model, logger=logging.getLogger("knn"))
    hook.before_train(runner)
    bank, queries = (
        next(iter(hook._extract(runner, images).values()))
        for images in (hook._bank, hook._queries)
    )
    return bank.vectors, bank.labels, knn_accuracy(queries, bank, k=3)


def _evaluate_as_rank(rank: int, folders: Path, store: str, results: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=3
    )
    torch.save(evaluate(folders), f"{results}/{rank}.pth")
    # Not destroyed: torch 2.1 can wait for ever for a store's file that is gone.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("is_broken", [False, True])
def test_three_processes_agree_with_one(is_broken, folders, tmp_path) -> None:
    """7 and 5 images over 3 processes: uneven shards, and broken images in some."""
    if is_broken:
        break_images(folders)
    arguments = (folders, str(tmp_path / "store"), str(tmp_path))
    mp.start_processes(_evaluate_as_rank, arguments, nprocs=3, start_method="fork")
    vectors, labels, accuracy = evaluate(folders)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        torch.testing.assert_close(found[0], vectors)
        assert torch.equal(found[1], labels)
        assert found[2] == accuracy
    assert labels.tolist() == [0, 0, 0, 1, 1, 2] + [2] * (not is_broken)
