"""``saim_mm.api.pretrain``: a folder of images becomes an encoder, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from sources import write_as
from tiny import tiny_saim

from saim_mm.api import _trial, pretrain
from saim_mm.api._machine import Machine
from saim_mm.api._own_run import OwnRun
from saim_mm.api._rule import Steps
from saim_mm.evaluation.encoders import build_encoder
from saim_mm.weights import CheckpointError, read_state_dict
from saim_mm.weights.load_model import build_model

ROOT = Path(__file__).parents[2]
TINY = dict(model="vit-nano", epochs=1, workers=0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images of 40 x 32 pixels."""
    return write_photos(tmp_path / "photos")


def write_photos(folder: Path, number: int = 10) -> Path:
    rng = np.random.default_rng(0)
    for index in range(number):
        path = folder / f"{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (32, 40, 3), dtype=np.uint8))
    return folder


def flat_photos(folder: Path) -> Path:
    flat = folder / "flat"
    flat.mkdir()
    for path in write_photos(folder / "nested").rglob("*.png"):
        path.rename(flat / path.name)
    return flat


class Written(Exception):
    """The config is there, and nothing is trained; with what the run would say."""


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(run: OwnRun, said: list[str], *_: Any) -> None:
        raise Written("\n".join(said))

    monkeypatch.setattr(OwnRun, "train", stop)


def written(folder: Path, out: Path, **options: Any) -> Config:
    with pytest.raises(Written):
        pretrain(folder, out, **{**TINY, **options})
    return Config.fromfile(out / "pretrain.py")


def test_the_config_is_short_and_says_it_all(
    photos: Path, tmp_path: Path, untrained: None
) -> None:
    cfg = written(photos, tmp_path / "out", epochs=40, seed=3)
    assert len((tmp_path / "out" / "pretrain.py").read_text().splitlines()) < 75
    assert cfg.model.backbone.img_size == 32 and cfg.model.backbone.patch_size == 4
    assert cfg.model.neck == dict(
        type="CrossMAENeck", depth=1, width=64, decoder_heads=1
    )
    assert cfg.model.head == dict(type="SAIMHead", projector="linear", smoothing=None)
    assert cfg.model.reading == dict(type="FixedReading", read=16)
    assert cfg.train_dataloader.dataset.data_root == str(photos)
    assert cfg.train_dataloader.dataset.pipeline[0].scale == 32
    assert cfg.train_cfg == dict(type="ExactIterLoop", max_iters=25)  # 40 * 10 / 16
    assert cfg.optim_wrapper.optimizer.lr == 2e-3
    assert cfg.randomness.seed == 3
    assert cfg.default_hooks.preemption.type == "PreemptionHook"
    assert 1 <= cfg.default_hooks.checkpoint.interval <= 25


@pytest.mark.parametrize("kind", ["WebDatasetImages", "HuggingFaceImages"])
def test_shards_and_datasets_are_recognised(
    kind: str, tmp_path: Path, untrained: None
) -> None:
    """By the rule for the folder of their images."""
    flat = flat_photos(tmp_path)
    data = write_as(kind, flat, tmp_path / "data")
    folder = written(flat, tmp_path / "out")
    cfg = written(data, tmp_path / "other")
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == kind and dataset.data_root == str(data)
    dataset.type, dataset.data_root = "UnlabeledImages", str(flat)
    for each in (cfg, folder):
        each.default_hooks.checkpoint.pop("interval")  # by the clock
        each.asked.pop("folder")
    assert cfg.to_dict() == folder.to_dict()


def test_where_the_images_are_may_be_told(tmp_path: Path, untrained: None) -> None:
    datasets = pytest.importorskip("datasets", minversion="3")
    contents = [p.read_bytes() for p in sorted(flat_photos(tmp_path).iterdir())]
    rows = datasets.Dataset.from_dict(dict(a=contents, b=contents))
    for column in "ab":
        rows = rows.cast_column(column, datasets.Image())
    datasets.DatasetDict(train=rows).save_to_disk(str(tmp_path / "data"))
    split = "train_dataloader.dataset.data_prefix=train"
    with pytest.raises(ValueError, match="2 columns of type Image"):
        written(tmp_path / "data", tmp_path / "out", cfg_options=[split])
    both = [split, "train_dataloader.dataset.column=b"]
    cfg = written(tmp_path / "data", tmp_path / "out", cfg_options=both)
    dataset = cfg.train_dataloader.dataset
    assert (dataset.data_prefix, dataset.column) == ("train", "b")


def test_options_go_into_the_config(
    photos: Path, tmp_path: Path, untrained: None
) -> None:
    pairs = ("model.backbone.drop_path_rate=0.2", "train_cfg.max_iters=7")
    cfg = written(photos, tmp_path / "out", cfg_options=pairs)
    assert cfg.model.backbone.drop_path_rate == 0.2 and cfg.train_cfg.max_iters == 7
    with pytest.raises(ValueError, match="write KEY=VALUE"):
        pretrain(photos, tmp_path / "no", **TINY, cfg_options=["max_iters"])
    assert not (tmp_path / "no").exists()


def test_a_config_of_a_person_counts(
    photos: Path, tmp_path: Path, untrained: None
) -> None:
    """What was changed by hand stays, and what was not asked for may stay unsaid."""
    out = tmp_path / "out"
    written(photos, out)
    text = (out / "pretrain.py").read_text()
    (out / "pretrain.py").write_text(text.replace("lr=0.002", "lr=0.001"))
    cfg = written(photos, out, epochs=None)
    assert cfg.optim_wrapper.optimizer.lr == 0.001


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(epochs=2), "epochs=2 (was 1)"),
        (dict(model="vit-s"), "model='vit-s' (was 'vit-nano')"),
        (dict(seed=1), "seed=1 (was 0)"),
        (dict(folder="other"), "other' (was '"),
    ],
)
def test_another_run_in_the_folder(
    change: dict[str, Any],
    said: str,
    photos: Path,
    tmp_path: Path,
    untrained: None,
) -> None:
    written(photos, tmp_path / "out")
    folder = tmp_path / change.pop("folder", photos.name)
    with pytest.raises(ValueError) as caught:
        pretrain(folder, tmp_path / "out", **{**TINY, **change})
    assert said in str(caught.value) and "another folder" in str(caught.value)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("empty", "holds no images"),
        ("none", "does not exist"),
        ("file", "is a file"),
        ("two", "holds 2 images; give at least 8"),
        ("broken", "none of 9 images can be read; the first is"),
    ],
)
def test_folders_that_teach_nothing(case: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    if case == "two":
        write_photos(folder, 2)
    elif case == "file":
        folder.write_text("no folder")
    elif case != "none":
        folder.mkdir()
    for index in range(9 if case == "broken" else 0):
        (folder / f"{index}.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(ValueError, match=message):
        pretrain(folder, tmp_path / "out", **TINY)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(epochs=0), "epochs=0 must be at least 1"),
        (dict(batch_size=-1), "batch_size=-1 must be at least 1"),
        (dict(workers=-2), "workers=-2 must be at least 0"),
        (dict(seed=-1), "seed=-1 must be at least 0"),
        (dict(cfg_options=["amp"]), r"cfg_options=\['amp'\]: write KEY=VALUE"),
        (dict(cfg_options=["model.amp=3"]), "first training step fails.* 'amp'"),
        (dict(cfg_options=["optim_wrapper.optimizer.lr=a"]), "first training step"),
        (dict(cfg_options=["train_cfg.max_iters=0"]), "train_cfg.max_iters=0 must be"),
        (dict(cfg_options=["train_cfg.max_epochs=0"]), "train_cfg.max_epochs=0 must"),
        (dict(model="resnet50"), "model='resnet50': there are vit-nano"),
        (dict(device="cuda"), "0 CUDA devices"),
        (dict(with_decoder=True), "with_decoder=True is about init"),
    ],
)
def test_wrong_options(
    options: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        pretrain(photos, tmp_path / "out", **{**TINY, **options})
    assert not (tmp_path / "out").exists()


def test_a_config_that_makes_no_run(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = ["train_dataloader.dataset.depth=3"]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"pretrain.py makes no run: .*'depth'"):
            pretrain(photos, out, **TINY, cfg_options=wrong)
    config = out / "pretrain.py"
    config.write_text(f"{config.read_text()}\nepochs = = 3\n")
    with pytest.raises(ValueError, match="does not load as a config.*SyntaxError"):
        pretrain(photos, out, **TINY)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_images(workers: int, photos: Path, tmp_path: Path) -> None:
    for path in list(photos.glob("*/*.png"))[:8]:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError) as raised:
        pretrain(photos, tmp_path / "out", **{**TINY, "workers": workers})
    told = str(raised.value)
    assert " of 10 images are broken" in told and "\n" not in told
    assert told.split()[0].isdigit()
    assert f"max_broken_share in {tmp_path / 'out' / 'pretrain.py'}" in told


def test_folders_of_others(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "epoch_1.pth").touch()
    with pytest.raises(ValueError, match="holds something else than a run"):
        pretrain(photos, out, **TINY)
    (out / "pretrain.py").write_text("max_epochs = 3\n")
    with pytest.raises(ValueError, match="was not written by `saim-mm pretrain`"):
        pretrain(photos, out, **TINY)
    with pytest.raises(ValueError, match="holds something else"):
        pretrain(photos, out / "epoch_1.pth", **TINY)
    with pytest.raises(OSError, match="epoch_1.pth"):
        pretrain(photos, out / "epoch_1.pth" / "below", **TINY)


# -- weights to go on from ---------------------------------------------------------


@pytest.fixture
def saim(tmp_path: Path) -> Path:
    """A checkpoint of a pretraining with four layers and a decoder of two."""
    path = tmp_path / "saim.pth"
    model = tiny_saim(
        image_size=(16, 16), embed_dims=64, num_heads=1, neck=dict(depth=2)
    )
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def test_going_on_from_a_whole_model(
    saim: Path, photos: Path, tmp_path: Path, untrained: None
) -> None:
    cfg = written(photos, tmp_path / "out", model=None, init=saim)
    assert cfg.load_from == str(saim)
    assert cfg.custom_hooks == [dict(type="CompleteLoadHook")]
    assert cfg.model.backbone.arch.embed_dims == 64
    assert cfg.model.backbone.img_size == 16 and cfg.model.neck.depth == 2
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.256 / 64 / 4)


def test_going_on_from_a_narrow_decoder(
    photos: Path, tmp_path: Path, untrained: None
) -> None:
    """What this verb has written itself; more images would not change its recipe."""
    cfg = written(photos, tmp_path / "out", epochs=1)
    torch.save({"state_dict": build_model(cfg).state_dict()}, tmp_path / "iter_1.pth")
    options = dict(model=None, init=tmp_path / "iter_1.pth")
    other = written(photos, tmp_path / "other", **options)
    assert other.load_from == str(tmp_path / "iter_1.pth")
    for part in ("neck", "head", "reading"):
        assert other.model[part] == cfg.model[part]
    assert other.model.backbone.arch.num_heads == cfg.model.backbone.arch.num_heads
    new = written(photos, tmp_path / "new", **options, with_decoder=False)
    assert new.model.neck == cfg.model.neck and new.load_from is None


def test_going_on_from_its_encoder_alone(
    saim: Path, photos: Path, tmp_path: Path, untrained: None
) -> None:
    options = dict(model=None, init=saim, with_decoder=False)
    cfg = written(photos, tmp_path / "out", **options)
    assert cfg.load_from is None and not cfg.get("custom_hooks")
    assert cfg.model.backbone.init_cfg.checkpoint == str(saim)
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.75
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.256 / 64)


def test_weights_that_do_not_fit(saim: Path, photos: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", {**TINY, "model": None}
    with pytest.raises(CheckpointError, match="4 layers of 64 channels, and model="):
        pretrain(photos, out, **{**TINY, "init": saim})
    state = read_state_dict(saim)
    lacking = {k: v for k, v in state.items() if not k.startswith("head.")}
    torch.save(lacking, tmp_path / "lacking.pth")
    with pytest.raises(CheckpointError, match="Missing: head"):
        pretrain(photos, out, **options, init=tmp_path / "lacking.pth")
    encoder = {k: v for k, v in state.items() if k.startswith("backbone.")}
    torch.save(encoder, tmp_path / "encoder.pth")
    with pytest.raises(CheckpointError, match="holds no decoder"):
        pretrain(
            photos, out, **options, init=tmp_path / "encoder.pth", with_decoder=True
        )
    torch.save({**encoder, "head.fc.weight": torch.ones(2, 2)}, tmp_path / "cls.pth")
    with pytest.raises(CheckpointError, match=r"is a classifier \(head.fc.weight\)"):
        pretrain(photos, out, **options, init=tmp_path / "cls.pth")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        pretrain(photos, out, **options, init=tmp_path / "none.pth")
    assert not out.exists()


# -- memory ------------------------------------------------------------------------


def test_what_runs_out_of_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def step(cfg: Config, size: Any, device: str, images: int, again: bool) -> Any:
        assert again  # the first step holds no state of the optimiser yet
        assert cfg.at_once == images and size == (32, 32)
        tried.append(images)
        if images > 16:
            raise torch.cuda.OutOfMemoryError("too much")
        return type("Trial", (), dict(seconds=0.5))

    monkeypatch.setattr(_trial, "train_one_step", step)

    def given(steps: Steps) -> Config:
        return Config(dict(at_once=steps.at_once, model=dict(backbone=_PIXELS)))

    steps, seconds = _trial.fit_to_memory(given, Steps(64, 64, 0, "bf16"), "cuda")
    assert tried == [64, 32, 16] and seconds == 0.5
    assert (steps.batch, steps.at_once, steps.accumulation) == (64, 16, 4)
    with pytest.raises(ValueError, match="3 images at once do not fit"):
        monkeypatch.setattr(_trial, "train_one_step", _always_too_much)
        _trial.fit_to_memory(given, Steps(24, 24, 0, "bf16"), "cuda")


def test_the_step_that_is_timed_finds_the_state_of_the_optimiser(
    photos: Path, tmp_path: Path, untrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two moments for each parameter, which the first step does not hold."""
    held, backward = [], _trial._backward

    def counted(model: Any, wrapper: Any, batch: dict[str, Any]) -> float:
        held.append(len(wrapper.optimizer.state))
        return backward(model, wrapper, batch)

    monkeypatch.setattr(_trial, "_backward", counted)
    written(photos, tmp_path / "out")
    assert len(held) == 2 and held[0] == 0 and held[1] > 0


_PIXELS = dict(img_size=32)


def _always_too_much(*_: Any, **__: Any) -> None:
    raise torch.cuda.OutOfMemoryError("too much")


def test_accumulation_keeps_the_schedule(
    photos: Path, tmp_path: Path, untrained: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a quarter at once, four times the iterations, for the warm-up as well."""
    plain = written(photos, tmp_path / "plain", epochs=100)
    machine = Machine("cpu", 4 * 10**7, 2)
    module = import_module("saim_mm.api.pretrain")
    monkeypatch.setattr(module, "this_machine", lambda device: machine)
    small = written(photos, tmp_path / "small", epochs=100)
    factor = small.optim_wrapper.accumulative_counts
    assert factor > 1
    assert small.train_dataloader.batch_size * factor == 16
    assert small.train_cfg.max_iters == factor * plain.train_cfg.max_iters
    assert small.param_scheduler[1].begin == factor * plain.param_scheduler[1].begin
    assert small.optim_wrapper.optimizer == plain.optim_wrapper.optimizer


def test_checkpoints_come_every_few_minutes() -> None:
    assert _trial.saving_interval(0.1, 10**6) == 3000
    assert _trial.saving_interval(1000.0, 10**6) == 1
    assert _trial.saving_interval(0.001, 50) == 50


# -- really run --------------------------------------------------------------------


def command(folder: Path, out: Path, *options: str) -> list[str]:
    start = [sys.executable, str(ROOT / "saim_mm_start.py"), "pretrain", str(folder)]
    tiny = ["--model", "vit-nano", "--workers", "1"]
    return [*start, "-o", str(out), *tiny, *options]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True,
        timeout=300, check=False, **options,
    )  # fmt: skip


def start_and_wait(folder: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """Starts a run in a group of its own, and waits for its second checkpoint."""
    process = subprocess.Popen(
        command(folder, out, *options), env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (out / "iter_6.pth").is_file() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return process


def newest_weights(out: Path, steps: int) -> dict[str, torch.Tensor]:
    return read_state_dict(out / f"iter_{steps}.pth")


@pytest.mark.slow
def test_killed_and_called_again_ends_with_the_same_weights(
    photos: Path, tmp_path: Path
) -> None:
    """kill -9, then Ctrl-C, then to the end: bit by bit as if nothing had happened."""
    options = [
        "--cfg-options", "train_cfg.max_iters=60",
        "default_hooks.checkpoint.interval=3",
    ]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run(photos, whole, *options)
    assert done.returncode == 0, done.stderr
    assert "10 images, typically 32 pixels: the recipe of little data" in done.stdout
    assert "On cpu: fp32, 1 worker; about " in done.stdout
    assert "step 60/60" in done.stdout
    for name in ("pretrain.py", "encoder.pth", "report.html"):
        assert (whole / name).is_file() and str(whole / name) in done.stdout

    process = start_and_wait(photos, parts, *options)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (parts / "encoder.pth").exists() and not (parts / "iter_60.pth").exists()

    process = start_and_wait(photos, parts, *options)
    before = sorted(parts.glob("iter_*.pth"))
    while sorted(parts.glob("iter_*.pth")) == before:  # until it has gone on
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    text = process.communicate(timeout=500)[0]
    assert process.returncode == 75, text
    assert "Saved. To go on, say the same again: " in text

    done = run(photos, parts, *options)
    assert done.returncode == 0, done.stderr
    assert "Going on as" in done.stdout and "while it goes on" in done.stdout
    expected, found = (newest_weights(out, 60) for out in (whole, parts))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    encoders = [read_state_dict(out / "encoder.pth") for out in (whole, parts)]
    assert all(torch.equal(encoders[0][k], v) for k, v in encoders[1].items())
    assert build_encoder(parts / "encoder.pth").backbone.num_layers == 4

    # Called once more, there is nothing left to do.
    done = run(photos, parts, *options)
    assert done.returncode == 0 and "step" not in done.stdout
    assert "Finished before: all 60 iterations are done." in done.stdout
    assert "Going on" not in done.stdout and "while it goes on" not in done.stdout

    # `tools/train.py` with the same config is the same run.
    tool = [sys.executable, str(ROOT / "tools/train.py"), str(whole / "pretrain.py")]
    subprocess.run(
        [*tool, "--work-dir", str(tmp_path / "tool")],
        env=environment(), check=True, capture_output=True,
    )  # fmt: skip
    again = newest_weights(tmp_path / "tool", 60)
    assert all(torch.equal(again[key], value) for key, value in expected.items())


@pytest.mark.slow
def test_going_on_really_begins_with_the_weights(photos: Path, tmp_path: Path) -> None:
    """The second run's first loss is that of a trained model, not of a new one."""
    first, second = tmp_path / "first", tmp_path / "second"
    lines = ("--cfg-options", "default_hooks.logger.interval=1")
    done = run(photos, first, "--epochs", "100", *lines)
    assert done.returncode == 0, done.stderr
    weights = sorted(first.glob("iter_*.pth"))[-1]
    done = run(photos, second, "--epochs", "5", "--init", str(weights), *lines)
    assert done.returncode == 0, done.stderr
    assert losses(second)[0] < (losses(first)[0] + losses(first)[-1]) / 2


def losses(out: Path) -> list[float]:
    import json

    (log,) = out.glob("*/vis_data/scalars.json")
    return [json.loads(line)["loss"] for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_a_run_too_short_to_log_a_loss_has_its_files(
    photos: Path, tmp_path: Path
) -> None:
    lines = ["train_cfg.max_iters=3", "default_hooks.logger.interval=50"]
    done = pretrain(photos, tmp_path / "run", **TINY, cfg_options=lines)
    assert done.encoder.is_file() and "No loss was logged." in done.report.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["WebDatasetImages", "HuggingFaceImages"])
def test_shards_and_datasets_end_with_the_weights_of_the_folder(
    kind: str, tmp_path: Path
) -> None:
    flat = flat_photos(tmp_path)
    data = write_as(kind, flat, tmp_path / "data")
    options = dict(**TINY, cfg_options=["train_cfg.max_iters=10"])
    ends = [
        read_state_dict(pretrain(folder, tmp_path / name, **options).encoder)
        for name, folder in (("of_folder", flat), ("of_data", data))
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
