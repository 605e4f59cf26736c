"""``saim_mm.api.finetune``: class folders become a classifier."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from class_folders import COLOURS, write_class_folders
from mmengine.config import Config
from mmpretrain.registry import MODELS
from test_pretrain_folder import ROOT, Written, environment, untrained  # noqa: F401
from tiny import tiny_saim

from saim_mm.api import finetune
from saim_mm.weights import CheckpointError, read_checkpoint, read_state_dict

TINY = dict(workers=0)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A checkpoint of a pretraining, four layers of 64 channels, 32 pixels."""
    path = tmp_path / "saim.pth"
    model = tiny_saim(
        image_size=(32, 32), patch_size=(8, 8), embed_dims=64, num_heads=1
    )
    torch.save({"state_dict": model.state_dict()}, path)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "classes", train=8, judged=4)


def test_the_config(
    encoder: Path,
    classes: Path,
    tmp_path: Path,
    untrained: None,  # noqa: F811
) -> None:
    (classes / "train" / ".cache").mkdir()  # no class
    with pytest.raises(Written):
        finetune(encoder, classes, tmp_path / "out", epochs=10, **TINY)
    cfg = Config.fromfile(tmp_path / "out" / "finetune.py")
    assert cfg.model.backbone.init_cfg == dict(
        type="Pretrained", checkpoint=str(encoder)
    )
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == 3
    assert cfg.model.head.in_channels == 64
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay_rate == 0.65
    assert cfg.train_cfg.max_epochs == 10 and cfg.param_scheduler[1].begin == 2
    assert cfg.train_dataloader.batch_size == 8  # of 24 images
    assert cfg.train_dataloader.dataset.metainfo.classes == sorted(COLOURS)
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.default_hooks.checkpoint.save_best == "accuracy/top1"
    lines = (tmp_path / "out" / "train.txt").read_text().splitlines()
    assert len(lines) == 24 and f"{classes}/train/red/0.png 2" in lines


@pytest.mark.parametrize(("epochs", "said"), [(10, "2 epochs"), (1, "0.5 epochs")])
def test_it_says_how_long_it_warms_up(
    epochs: int,
    said: str,
    encoder: Path,
    classes: Path,
    tmp_path: Path,
    untrained: None,  # noqa: F811
) -> None:
    """Half of the run at most: so far do the exact loops shorten it."""
    with pytest.raises(Written, match=f"after {said} of warm-up"):
        finetune(encoder, classes, tmp_path / "out", epochs=epochs, **TINY)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("none", "there is no such folder"),
        ("no val", "wanted the folders train/<class>/ and val or test/<class>/"),
        ("one class", "one class, 'blue'; a classifier needs two"),
        ("empty class", r"no image in \['green'\]"),
        ("unknown class", r"classes \['white'\]"),
        ("broken", "none of 12 images can be read"),
        ("batch", "batch_size=64, and there are 24 images"),
        ("epochs", "epochs=0 must be at least 1"),
    ],
)
def test_wrong_inputs(
    case: str, message: str, encoder: Path, classes: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = dict(TINY)
    if case == "none":
        classes = tmp_path / "none"
    elif case == "no val":
        (classes / "val").rename(classes / "judged")
    elif case == "one class":
        for part in ("train", "val"):
            for name in ("green", "red"):
                (classes / part / name).rename(tmp_path / f"{part}_{name}")
    elif case == "empty class":
        for path in (classes / "train" / "green").iterdir():
            path.unlink()
    elif case == "unknown class":
        (classes / "val" / "red").rename(classes / "val" / "white")
    elif case == "broken":
        for path in (classes / "val").glob("*/*.png"):
            path.write_bytes(b"no image")
    elif case == "batch":
        options["batch_size"] = 64
    elif case == "epochs":
        options["epochs"] = 0
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetune(encoder, classes, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_share_is_split_off(
    encoder: Path,
    classes: Path,
    tmp_path: Path,
    untrained: None,  # noqa: F811
) -> None:
    out = tmp_path / "out"
    for share in (0.25, 0.25):  # once more, the run goes on
        with pytest.raises(Written):
            finetune(encoder, classes / "train", out, val_share=share, **TINY)
    lists = [
        (out / f"{part}.txt").read_text().splitlines() for part in ("train", "val")
    ]
    assert [len(lines) for lines in lists] == [18, 6]
    assert not set(lists[0]) & set(lists[1])
    with pytest.raises(ValueError, match=r"val_share=0.5 \(was 0.25\)"):
        finetune(encoder, classes / "train", out, val_share=0.5, **TINY)
    with pytest.raises(ValueError, match="has val/ already"):
        finetune(encoder, classes, tmp_path / "other", val_share=0.5, **TINY)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_one_line(
    workers: int, encoder: Path, classes: Path, tmp_path: Path
) -> None:
    for path in (classes / "train" / "red").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError) as raised:
        finetune(encoder, classes, tmp_path / "out", epochs=1, workers=workers)
    told = str(raised.value)
    assert told.startswith(f"'{classes}/train/red/") and "\n" not in told
    assert "Mend this image and say the same again" in told


def test_what_is_no_encoder(encoder: Path, classes: Path, tmp_path: Path) -> None:
    state = read_state_dict(encoder)
    del state["backbone.layers.2.ln1.weight"]
    torch.save(state, tmp_path / "lacking.pth")
    with pytest.raises(CheckpointError, match="layers.2.ln1.weight"):
        finetune(tmp_path / "lacking.pth", classes, tmp_path / "out", **TINY)
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="holds no encoder"):
        finetune(tmp_path / "other.pth", classes, tmp_path / "out", **TINY)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_colours_are_learnt(encoder: Path, classes: Path, tmp_path: Path) -> None:
    """The command, once and again: three colours apart, the best epoch kept."""
    out = tmp_path / "out"
    start = [sys.executable, str(ROOT / "saim_mm_start.py"), "finetune"]
    options = "--workers 0 --epochs 30 --cfg-options optim_wrapper.optimizer.lr=2e-3"
    for again in (False, True):
        done = subprocess.run(
            [*start, str(encoder), str(classes), "-o", str(out), *options.split()],
            env=environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Going on as" not in done.stdout  # it has come to its end
        assert ("Finished before: all 90 iterations" in done.stdout) == again
        accuracies = [
            float(line.split()[-2])
            for line in done.stdout.splitlines()
            if line.endswith(" %")
        ]
        assert len(accuracies) == 2 and 70 < accuracies[1] <= accuracies[0]
    content = read_checkpoint(out / "classifier.pth")
    assert list(content["meta"]["classes"]) == sorted(COLOURS)
    cfg = Config.fromfile(out / "finetune.py")
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.load_state_dict(content["state_dict"], strict=True)
    (best,) = out.glob("best_*.pth")
    kept = read_state_dict(best)
    assert all(torch.equal(kept[k], v) for k, v in content["state_dict"].items())
