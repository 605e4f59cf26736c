"""A resumed run is the uninterrupted one, bit for bit, and more ranks see the same."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_runs import (
    FLOAT16,
    differing_bytes,
    make_images,
    on_ranks,
    run_config,
    train,
)
from mmengine.config import Config
from sources import write_as
from tiny import tiny_config

#: 26 images in batches of 4: 6 iterations per epoch. With 4 iterations per step, steps
#: reach across epochs. Files of the first run, and what stands there.
POINTS = {
    "iter_1": "mid-accumulation, before the first step",
    "iter_4": "step 1",
    "epoch_1": "epoch end, mid-accumulation across it",
    "iter_6": "epoch end, before its hooks have run",
    "iter_8": "mid-epoch",
    "iter_9": "mid-epoch, mid-accumulation",
    "epoch_2": "epoch end",
    "iter_13": "mid-accumulation, begun in this epoch",
}
IMAGES = 26
CUT = dict(type="CutReading", asked=2)


@pytest.fixture(autouse=True)
def unformatted_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine formats the config for each checkpoint: most of a tiny run."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: "a = 1\n"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_images(tmp_path_factory.mktemp("images"), IMAGES)


def run_and_resume(
    images: str, root: str, points: list[str], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Trains through, then from each point on; what each run gave, without runners."""
    torch.set_num_threads(1)
    whole = train(run_config(images, Path(root, "whole"), points=points, **options))
    resumed = {}
    for point in points:
        cfg = run_config(images, Path(root, point), **options)
        resumed[point] = train(cfg, Path(root, "whole", f"{point}.pth"))
    for run in (whole, *resumed.values()):
        del run["runner"]
    return whole, resumed


def assert_equal_runs(whole: dict[str, Any], resumed: dict[str, Any]) -> None:
    rows = resumed["rows"]
    assert 0 < len(rows) < len(whole["rows"])
    assert rows == whole["rows"][-len(rows) :]  # loss, samples, pixels, batch_idx
    assert differing_bytes(whole["state"], resumed["state"]) == 0


# --- one rank -----------------------------------------------------------------------


def test_epoch_loop(images: str, tmp_path: Path) -> None:
    """In mid-epoch with an open step, and after an epoch that a step reaches across."""
    points = ["iter_9", "epoch_1"]
    whole, resumed = run_and_resume(images, str(tmp_path), points, {})
    for point in points:
        assert_equal_runs(whole, resumed[point])
    assert len(set(whole["state"]["losses"])) == 18


def test_how_much_is_read_is_repeated_too(images: str, tmp_path: Path) -> None:
    """What is drawn for an iteration, not an image: also in those of an open step."""
    points = ["iter_9", "epoch_1"]
    model = {**tiny_config(num_layers=2, depth=2), "reading": CUT}
    whole, resumed = run_and_resume(images, str(tmp_path), points, dict(model=model))
    for point in points:
        assert_equal_runs(whole, resumed[point])


@pytest.mark.parametrize("precision", [FLOAT16])
def test_iter_loop_with_workers_and_scaler(
    precision: str, images: str, tmp_path: Path
) -> None:
    """Iterations 7 and 13 hold images of two epochs."""
    options = dict(
        loop="ExactIterLoop",
        length=15,
        accumulation=2,
        workers=2,
        precision=precision,
    )
    whole, resumed = run_and_resume(images, str(tmp_path), ["iter_9"], options)
    assert_equal_runs(whole, resumed["iter_9"])
    assert whole["state"]["optimizer"]["loss_scaler"]["scale"] != 256
    epochs = [{epoch for _, epoch in row["samples"]} for row in whole["rows"]]
    assert epochs[6] == {0, 1}
    assert epochs[13:] == [{2}, {2}]
    assert [row["batch_idx"] for row in whole["rows"]] == list(range(15))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", FLOAT16])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_grid(
    images: str, tmp_path: Path, workers: int, ranks: int, precision: str
) -> None:
    """Every point of ``POINTS`` in every setting."""
    options = dict(workers=workers, ranks=ranks, precision=precision)
    arguments = (images, str(tmp_path), list(POINTS), options)
    results = on_ranks(ranks, tmp_path / "ranks", run_and_resume, *arguments)
    for rank, (whole, resumed) in enumerate(results):
        for point in POINTS:
            if rank:
                # MMEngine stores the history of the first rank, the one that logs.
                resumed[point]["state"]["losses"] = whole["state"]["losses"]
            assert_equal_runs(whole, resumed[point])


def test_log_of_a_resumed_run(images: str, tmp_path: Path) -> None:
    """Every line that is logged: loss, rate, epoch and iteration, to the last bit."""

    def lines(root: Path) -> list[dict[str, Any]]:
        (path,) = root.glob("*/vis_data/scalars.json")
        rows = map(json.loads, path.read_text().splitlines())
        kept = ("loss", "lr", "base_lr", "epoch", "iter", "step")
        return [{k: row[k] for k in kept if k in row} for row in rows]

    run_and_resume(images, str(tmp_path), ["iter_9"], dict(length=2))
    whole, resumed = lines(tmp_path / "whole"), lines(tmp_path / "iter_9")
    assert [row["step"] for row in resumed] == [10, 11, 12]
    assert resumed == whole[9:]


# --- data ---------------------------------------------------------------------------


def test_data_does_not_depend_on_workers(images: str, tmp_path: Path) -> None:
    rows = []
    for workers in (0, 2):
        cfg = run_config(images, tmp_path / str(workers), workers=workers, length=1)
        rows.append(train(cfg)["rows"])
    assert rows[0] == rows[1]
    pixels = list(itertools.chain.from_iterable(row["pixels"] for row in rows[0]))
    assert len(set(pixels)) == 24


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_ledger_over_random_kills(images: str, tmp_path: Path, kills: int) -> None:
    """Each image once per epoch, whole or resumed again and again."""
    options = dict(workers=2, accumulation=2)
    whole = train(run_config(images, tmp_path / "whole", **options))
    points = sorted(random.Random(kills).sample(range(1, 18), kills))
    rows: list[dict[str, Any]] = []
    last = None
    for number, point in enumerate([*points, 18]):
        name, folder = f"iter_{point}", tmp_path / str(number)
        run = train(run_config(images, folder, points=[name], **options), last)
        # What came after the kill is lost, and done again by the next run.
        rows += [row for row in run["rows"] if row["iteration"] < point]
        last = folder / f"{name}.pth"
    assert rows == whole["rows"]
    assert differing_bytes(whole["state"], run["state"]) == 0
    for epoch in range(3):
        seen = [s for row in rows[6 * epoch : 6 * epoch + 6] for s in row["samples"]]
        assert len(set(seen)) == 24
        assert {e for _, e in seen} == {epoch}


def test_far_position_is_found_without_decoding(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iteration 10^6 of a stream: only the images of the two iterations left load."""
    options = dict(loop="ExactIterLoop", accumulation=1)
    cfg = run_config(images, tmp_path / "near", length=1, points=["iter_1"], **options)
    train(cfg)
    path = tmp_path / "near" / "iter_1.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["meta"]["iter"] = 10**6
    checkpoint["exact_resume"].update(iteration=10**6, batches=10**6, samples=4 * 10**6)
    torch.save(checkpoint, path)

    decodes = tmp_path / "decodes"
    monkeypatch.setenv("DECODES", str(decodes))
    cfg = run_config(images, tmp_path / "far", length=10**6 + 2, **options)
    run = train(cfg, path)
    assert len(decodes.read_text().splitlines()) == 8
    assert [row["iteration"] for row in run["rows"]] == [10**6, 10**6 + 1]
    assert {e for _, e in run["rows"][0]["samples"]} == {4 * 10**6 // IMAGES}


# --- ranks --------------------------------------------------------------------------


def relay(images: str, root: str, ranks: int, end: int, start: int) -> list:
    """Trains up to an iteration, on from where another number of ranks has come to."""
    torch.set_num_threads(1)
    cfg = run_config(
        images,
        Path(root, str(end)),
        loop="ExactIterLoop",
        length=52,
        ranks=ranks,
        accumulation=2,
        points=[f"iter_{end}"],
        model=tiny_config(num_layers=2, depth=2),  # drop path is drawn by rank
    )
    cfg.custom_hooks.append(dict(type="StopAt", iteration=end))
    cfg.param_scheduler = []  # learns to the end
    cfg.optim_wrapper.optimizer.lr = 1e-3
    last = Path(root, str(start), f"iter_{start}.pth") if start else None
    return train(cfg, last)["rows"]


def joined(rows_of_ranks: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What all ranks together saw, and their mean loss."""
    return [
        dict(
            iteration=rows[0]["iteration"],
            samples=sorted(itertools.chain(*(row["samples"] for row in rows))),
            pixels=sorted(itertools.chain(*(row["pixels"] for row in rows))),
            loss=sum(row["loss"] for row in rows) / len(rows),
        )
        for rows in zip(*rows_of_ranks, strict=True)
    ]


@pytest.mark.slow
def test_elastic_run_sees_the_same(images: str, tmp_path: Path) -> None:
    """1 -> 2 -> 4 -> 1 ranks; the changes at odd iterations fall into open steps."""
    whole = joined([relay(images, str(tmp_path / "whole"), 1, 52, 0)])
    rows, start = [], 0
    for ranks, end in ((1, 13), (2, 27), (4, 39), (1, 52)):
        arguments = (images, str(tmp_path), ranks, end, start)
        rows += joined(on_ranks(ranks, tmp_path / "ranks", relay, *arguments))
        start = end
    assert [row["iteration"] for row in rows] == list(range(52))
    for ours, theirs in zip(rows, whole, strict=True):
        assert ours["samples"] == theirs["samples"]
        assert ours["pixels"] == theirs["pixels"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    assert whole[-1]["loss"] < whole[0]["loss"] - 0.01


# --- where it lies ------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_broken(images: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(images, tmp_path_factory.mktemp("some") / "broken"))
    (folder / "011.png").write_bytes(b"<html>")
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["WebDatasetImages", "HuggingFaceImages"])
def test_other_sources_are_the_folder(
    kind: str, workers: int, ranks: int, one_broken: Path, tmp_path: Path
) -> None:
    """Whole and resumed in mid-epoch, losses too; with an image that is broken."""
    root = str(write_as(kind, one_broken, tmp_path / "data"))
    options = dict(workers=workers, ranks=ranks, length=2, kind=kind)
    arguments = (root, str(tmp_path), ["iter_9"], options)
    results = on_ranks(ranks, tmp_path / "ranks", run_and_resume, *arguments)
    folder = run_config(str(one_broken), tmp_path / "folder", length=2)
    expected = train(folder)["rows"]
    for rank, (whole, resumed) in enumerate(results):
        if rank:
            resumed["iter_9"]["state"]["losses"] = whole["state"]["losses"]
        assert_equal_runs(whole, resumed["iter_9"])
    if ranks == 1:
        assert results[0][0]["rows"] == expected
        broken = json.loads((tmp_path / "whole" / "broken_images.json").read_text())
        assert [entry["index"] for entry in broken] == [11]
    expected = joined([expected])
    seen = joined([whole["rows"] for whole, _ in results])
    assert [row["samples"] for row in seen] == [row["samples"] for row in expected]
    assert [row["pixels"] for row in seen] == [row["pixels"] for row in expected]


# --- in other projects --------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "config", "loop"),
    [
        ("mmdet", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "ExactEpochLoop"),
        ("mmseg", "upernet/upernet_r50_4xb4-80k_ade20k-512x512.py", "ExactIterLoop"),
    ],
)
def test_recipe_of_the_document(
    tmp_path: Path, package: str, config: str, loop: str
) -> None:
    """Its three lines, below configs as mmdet and mmseg install them."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    base = Path(spec.origin).parent / ".mim" / "configs" / config
    text = (Path(__file__).parents[2] / "docs" / "reliable_training.md").read_text()
    (recipe,) = re.findall(r"```python\n# recipe: exact resume\n(.*?)```", text, re.S)
    assert len(recipe.splitlines()) == 3
    recipe = recipe.replace("ExactEpochLoop", loop)
    (tmp_path / "child.py").write_text(f"_base_ = {str(base)!r}\n{recipe}")
    before, after = Config.fromfile(base), Config.fromfile(tmp_path / "child.py")
    assert after.train_cfg == {**before.train_cfg, "type": loop}
    assert after.train_dataloader.sampler == dict(type="ExactSampler", shuffle=True)
    first, *rest = after.train_dataloader.dataset.pipeline
    assert first == dict(type="SeedSample")
    assert rest == before.train_dataloader.dataset.pipeline
    hooks = dict(after.default_hooks)
    assert hooks.pop("exact_resume") == dict(type="ExactResumeHook")
    assert hooks == before.default_hooks
