"""BrokenImageHook: what it logs, and how a run with broken images ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from saim_mm.datasets import TooManyBrokenImages, UnlabeledImages
from saim_mm.reliability import BrokenImageHook
from saim_mm.reliability.inner_datasets import with_inner_datasets

LOAD = [dict(type="LoadImage")]


def make_folder(root: Path, total: int, broken: set[int]) -> str:
    """Writes ``total`` tiny images, some of which are web pages."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(total):
        path = root / f"{i:03d}.png"
        if i in broken:
            path.write_text("<html></html>")
        else:
            Image.new("RGB", (4, 4), (i, i, i)).save(path)
    return str(root)


class MeanModel(BaseModel):
    """One weight that learns the mean of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(
        self, inputs: Tensor, mode: str = "loss"
    ) -> dict[str, Tensor] | list[Tensor]:
        return dict(loss=(inputs.float().mean() / 255 - self.weight) ** 2)


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Stacks the images to (B, H, W, 3)."""
    return dict(inputs=torch.from_numpy(np.stack([s["img"] for s in samples])))


class Unrelated(Dataset):
    """A dataset that the hook must leave alone."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(img=np.zeros((4, 4, 3), dtype=np.uint8))


def build_runner(
    dataset: Dataset,
    work_dir: Path,
    hook: Hook,
    workers: int = 0,
    epochs: int = 2,
    **options: Any,
) -> Runner:
    loader = dict(
        dataset=dataset,
        sampler=dict(type="DefaultSampler", shuffle=False),
        batch_size=2,
        num_workers=workers,
        collate_fn=collate,
    )
    return Runner(
        model=MeanModel(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[hook],
        # Unlike any other test's: loggers are kept by name and second, so a namesake
        # would write into the other's log file.
        experiment_name=work_dir.parent.name,
        **options,
    )


def log_text(work_dir: Path) -> str:
    return "".join(path.read_text() for path in work_dir.glob("*/*.log"))


@pytest.mark.parametrize("workers", [0, 2])
def test_run_over_broken_files_finishes_and_names_each_once(
    tmp_path: Path, workers: int
) -> None:
    folder = make_folder(tmp_path / "images", 12, {3, 4, 9})
    dataset = UnlabeledImages(folder, pipeline=LOAD, max_broken_share=0.25)
    runner = build_runner(dataset, tmp_path / "run", BrokenImageHook(2), workers)
    runner.train()
    assert (runner.epoch, runner.iter) == (2, 12)
    assert runner.train_dataloader.dataset.broken_indices() == [3, 4, 9]
    log = log_text(tmp_path / "run")
    named = re.findall(
        r"WARNING - broken image (\d) of at most (\d): '(.*)': (.*)", log
    )
    assert [(number, Path(path).name) for number, _, path, _ in named] == [
        ("1", "003.png"),
        ("2", "004.png"),
        ("3", "009.png"),
    ]
    assert {(limit, why) for _, limit, _, why in named} == {
        ("3", "truncated or no image: 13 bytes that begin with b'<html></html'")
    }
    assert log.count("broken images: 3 of 12, each replaced by the next one") == 1


def test_hook_ends_the_run_past_the_share(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images", 12, set())
    dataset = UnlabeledImages(folder, pipeline=LOAD, max_broken_share=0.1)
    runner = build_runner(dataset, tmp_path / "run", BrokenImageHook(3))
    # As if found by a worker of another rank: nothing was raised in this process.
    Path(folder, "005.png").write_bytes(b"")
    dataset.mark_broken([2, 5])
    with pytest.raises(TooManyBrokenImages) as raised:
        runner.train()
    assert runner.iter == 2  # the third iteration, before it is counted
    assert str(raised.value).startswith("2 of 12 images are broken (16.67%), ")
    assert f"allows 1; the last one is '{folder}/005.png': empty file" in str(
        raised.value
    )


def test_worker_ends_the_run_past_the_share(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images", 12, {1, 3})
    dataset = UnlabeledImages(folder, pipeline=LOAD)
    runner = build_runner(dataset, tmp_path / "run", BrokenImageHook())
    with pytest.raises(TooManyBrokenImages, match=r"2 of 12 .* '.*003\.png': "):
        runner.train()


def test_wrapped_datasets_are_found(tmp_path: Path) -> None:
    class WithLabels(UnlabeledImages):
        def get_cat_ids(self, idx: int) -> list[int]:
            return [0]

    one = WithLabels(make_folder(tmp_path / "1", 4, {1}), pipeline=LOAD)
    two = WithLabels(make_folder(tmp_path / "2", 6, {0}), pipeline=LOAD)
    balanced = ClassBalancedDataset(one, oversample_thr=1e-3)
    nested = Subset(ConcatDataset([one, two]), range(8))
    assert list(with_inner_datasets(balanced)) == [balanced, one]
    assert list(with_inner_datasets(RepeatDataset(two, 3)))[1:] == [two]
    assert list(with_inner_datasets(nested)) == [nested, nested.dataset, one, two]
    unrelated = Unrelated()
    assert list(with_inner_datasets(unrelated)) == [unrelated]
    twice = Subset(ConcatDataset([one, two, one]), range(14))
    build_runner(twice, tmp_path / "run", BrokenImageHook(), epochs=1).train()
    log = log_text(tmp_path / "run")
    assert len(re.findall(r"broken image 1 of at most 1: '.*/1/001.png'", log)) == 1
    assert len(re.findall(r"broken image 1 of at most 1: '.*/2/000.png'", log)) == 1
    assert log.count("broken images: 2 of 10,") == 1


def test_other_datasets_are_left_alone(tmp_path: Path) -> None:
    build_runner(Unrelated(), tmp_path / "run", BrokenImageHook(1), epochs=1).train()
    assert "broken image" not in log_text(tmp_path / "run").split("after_train:")[-1]


def test_all_ranks_judge_by_what_they_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker marks an image during the exchange; no other rank knows of it yet."""
    folder = make_folder(tmp_path / "images", 6, {1, 2})
    dataset = UnlabeledImages(folder, pipeline=LOAD)
    dataset.mark_broken([1])
    hook = BrokenImageHook()
    lines: list[str] = []
    runner = SimpleNamespace(
        iter=0,
        work_dir=str(tmp_path),
        train_dataloader=SimpleNamespace(dataset=dataset),
        logger=SimpleNamespace(warning=lines.append),
    )
    hook.before_train(runner)
    monkeypatch.setattr(
        "saim_mm.reliability.broken_image_hook.all_reduce",
        lambda merged, op: dataset.mark_broken([2]),
    )
    hook.after_train_epoch(runner)
    assert len(lines) == 1
    assert "001.png" in lines[0]
    assert dataset.broken_indices() == [1, 2]  # not overwritten
    with pytest.raises(TooManyBrokenImages):
        hook.after_train_epoch(runner)


@pytest.mark.parametrize("interval", [0, -1, 2.5, "500"])
def test_wrong_interval(interval: object) -> None:
    with pytest.raises(ValueError, match="interval=.* must be a positive number"):
        BrokenImageHook(interval)


# --- the list in the work dir -------------------------------------------------------


def quarantine(work_dir: Path) -> list[tuple[int, str, str]]:
    entries = json.loads((work_dir / "broken_images.json").read_text())
    assert all(entry["dataset"] == 0 for entry in entries)
    return [(e["index"], Path(e["path"]).name, e["reason"]) for e in entries]


def test_every_kind_of_damage_is_listed(tmp_path: Path) -> None:
    """And what is merely odd is not; past the share, the run ends with the list."""
    folder = tmp_path / "images"
    folder.mkdir()
    photo = Image.effect_noise((32, 32), 60).convert("RGB")
    odd = {
        "cmyk.jpg": photo.convert("CMYK"),
        "deep.png": Image.new("I;16", (4, 4), 40_000),
        "one.png": Image.new("RGB", (1, 1)),
        "palette.png": photo.quantize(16),
    }
    for name, image in odd.items():
        image.save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "exif.jpg", exif=exif)
    whole = (folder / "exif.jpg").read_bytes()
    (folder / "0byte.jpg").write_bytes(b"")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "html.jpg").write_text("<html></html>")
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    expected = [
        (0, "0byte.jpg", "empty file"),
        (2, "dangling.jpg", "No such file or directory"),
        (
            5,
            "html.jpg",
            "truncated or no image: 13 bytes that begin with b'<html></html",
        ),
        (8, "truncated.jpg", "truncated JPEG: no end marker in"),
    ]

    def train(share: float) -> Path:
        pipeline = [*LOAD, dict(type="Resize", scale=(4, 4))]
        dataset = UnlabeledImages(
            str(folder), pipeline=pipeline, max_broken_share=share
        )
        run = tmp_path / str(share) / "run"
        build_runner(dataset, run, BrokenImageHook(1), epochs=1).train()
        return run

    listed = quarantine(train(share=0.5))
    for (index, name, reason), (i, n, r) in zip(listed, expected, strict=True):
        assert (index, name) == (i, n)
        assert reason.startswith(r)
    with pytest.raises(TooManyBrokenImages, match="2 of 9 images are broken"):
        train(share=0.2)


@pytest.mark.parametrize("source", ["checkpoint", "file"])
def test_resumed_run_replaces_the_same(tmp_path: Path, source: str) -> None:
    """Even what loads again: image 3 was away for a moment."""
    folder = make_folder(tmp_path / "images", 12, {3, 9})
    run = tmp_path / "run"
    dataset = UnlabeledImages(folder, pipeline=LOAD, max_broken_share=0.25)
    runner = build_runner(dataset, run, BrokenImageHook(1), epochs=1)
    runner.train()
    runner.save_checkpoint(str(run), "one.pth", meta=dict(epoch=1, iter=6))
    listed = quarantine(run)
    assert [index for index, _, _ in listed] == [3, 9]
    Image.new("RGB", (4, 4)).save(Path(folder, "003.png"))
    if source == "checkpoint":
        (run / "broken_images.json").unlink()
    else:
        checkpoint = torch.load(run / "one.pth", weights_only=False)
        assert [entry["index"] for entry in checkpoint.pop("broken_images")] == [3, 9]
        torch.save(checkpoint, run / "one.pth")

    resumed = tmp_path / f"resumed_{source}" / "run"
    resumed.mkdir(parents=True)
    if source == "file":
        shutil.copy(run / "broken_images.json", resumed)
    dataset = UnlabeledImages(folder, pipeline=LOAD, max_broken_share=0.25)
    options = dict(load_from=str(run / "one.pth"), resume=True)
    runner = build_runner(dataset, resumed, BrokenImageHook(1), epochs=2, **options)
    runner.train()
    assert runner.train_dataloader.dataset.broken_indices() == [3, 9]
    log = log_text(resumed)
    assert "broken images: 2 known from before" in log
    assert "WARNING - broken image" not in log
    assert "broken images: 2 of 12" in log


@pytest.mark.parametrize("mended", [0, 1, 2])
def test_resumed_run_ends_past_the_share(tmp_path: Path, mended: int) -> None:
    """As the run before did, until enough of the images are mended."""
    folder = make_folder(tmp_path / "images", 12, {3, 6, 9})
    run = tmp_path / "run"
    dataset = UnlabeledImages(folder, pipeline=LOAD, max_broken_share=0.25)
    runner = build_runner(dataset, run, BrokenImageHook(1), epochs=1)
    runner.train()
    runner.save_checkpoint(str(run), "one.pth", meta=dict(epoch=1, iter=6))
    for index in (9, 6)[:mended]:
        Image.new("RGB", (4, 4)).save(Path(folder, f"{index:03d}.png"))
    dataset = UnlabeledImages(folder, pipeline=LOAD, max_broken_share=0.1)
    options = dict(load_from=str(run / "one.pth"), resume=True)
    runner = build_runner(dataset, run, BrokenImageHook(1), epochs=2, **options)
    if mended < 2:
        with pytest.raises(TooManyBrokenImages) as raised:
            runner.train()
        assert f"{3 - mended} of 12 images are broken" in str(raised.value)
        assert runner.iter == 6
    else:
        runner.train()
        assert runner.train_dataloader.dataset.broken_indices() == [3]
        assert [index for index, *_ in quarantine(run)] == [3]
        assert "2 of them load now" in log_text(run)


def test_listed_image_that_is_no_longer_there(tmp_path: Path) -> None:
    """Files came and went: the list's numbers mean other images now."""
    dataset = UnlabeledImages(make_folder(tmp_path / "images", 4, set()), pipeline=LOAD)
    entry = dict(dataset=0, index=1, path="/data/gone.png", reason="empty file")
    (tmp_path / "broken_images.json").write_text(json.dumps([entry]))
    lines: list[str] = []
    runner = SimpleNamespace(
        iter=5,
        work_dir=str(tmp_path),
        train_dataloader=SimpleNamespace(dataset=dataset),
        logger=SimpleNamespace(warning=lines.append, info=lines.append),
    )
    BrokenImageHook().before_train(runner)
    assert dataset.broken_indices() == []
    assert "'/data/gone.png' was broken, and is no longer image 1" in lines[0]
    (tmp_path / "broken_images.json").write_text("[{")
    with pytest.raises(ValueError, match=r"broken_images.json is no list.*remove it"):
        BrokenImageHook().before_train(runner)
    runner.iter = 0  # a new run knows nothing
    BrokenImageHook().before_train(runner)


def test_list_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images", 6, {1})
    run = tmp_path / "run"
    (run / "broken_images.json").mkdir(parents=True)
    dataset = UnlabeledImages(folder, pipeline=LOAD)
    build_runner(dataset, run, BrokenImageHook(1), epochs=1).train()
    assert "broken_images.json could not be written" in log_text(run)


# --- two ranks ----------------------------------------------------------------------


def run_rank(folder: str, work_dir: str, share: float) -> None:
    """Trains on one of two ranks; writes down how that ended."""
    # mmengine's own start with launcher="pytorch" wants CUDA.
    torch.distributed.init_process_group("gloo")
    dataset = UnlabeledImages(folder, pipeline=LOAD, max_broken_share=share)
    runner = build_runner(
        dataset,
        Path(work_dir) / "run",
        BrokenImageHook(2),
        workers=1,
        epochs=1,
        launcher="pytorch",
        # mmengine wraps the model with device_ids, which a CPU rejects.
        cfg=dict(
            model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None)
        ),
    )
    try:
        runner.train()
        end = "finished"
    except TooManyBrokenImages as error:
        end = str(error)
    rank = os.environ["RANK"]
    broken = runner.train_dataloader.dataset.broken_indices()
    text = f"{runner.iter}\n{broken}\n{end}\n"
    Path(work_dir, f"rank{rank}.txt").write_text(text)
    # Without this the first rank to leave would abort the other's collectives.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def run_two_ranks(folder: str, work_dir: Path, share: float) -> list[list[str]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", __file__, folder, str(work_dir), str(share)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        # The ranks import what this process does, installed or not.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    done = subprocess.run(
        command, env=environment, timeout=600, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [work_dir / f"rank{rank}.txt" for rank in range(2)]
    return [end.read_text().splitlines() for end in ends]


@pytest.mark.slow
def test_two_ranks_end_together_past_the_share(tmp_path: Path) -> None:
    # Unshuffled, rank 0 reads the even images and rank 1 the odd ones. Two broken
    # images each are within the share of 3, four of them are not.
    folder = make_folder(tmp_path / "images", 40, {0, 6, 3, 9})
    first, second = run_two_ranks(folder, tmp_path, share=0.075)
    assert first == second
    assert int(first[0]) < 10
    assert first[1] == "[0, 3, 6, 9]"
    assert first[2].startswith("4 of 40 images are broken (10.00%), ")
    assert "allows 3; the last one is " in first[2]
    assert "009.png" in first[2]
    assert (tmp_path / "run").is_dir()
    assert log_text(tmp_path / "run").count("WARNING - broken image") == 4


@pytest.mark.slow
def test_two_ranks_share_their_flags(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images", 40, {0, 39})
    first, second = run_two_ranks(folder, tmp_path, share=0.1)
    assert first == second == ["10", "[0, 39]", "finished"]
    log = log_text(tmp_path / "run")
    assert log.count("WARNING - broken image") == 2
    assert log.count("broken images: 2 of 40,") == 1


if __name__ == "__main__":
    run_rank(sys.argv[1], sys.argv[2], float(sys.argv[3]))
