"""The demo, really launched on small folders of made-up photographs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmpretrain.registry import MODELS
from run_tool import run_tool

from saim_mm.weights import read_state_dict

ROOT = Path(__file__).parents[2]
TINY = [
    "--cfg-options",
    "model.backbone.arch.embed_dims=32",
    "model.backbone.arch.num_layers=2",
    "model.backbone.arch.num_heads=2",
    "model.backbone.arch.feedforward_channels=64",
    "model.neck.depth=2",
    "train_dataloader.batch_size=4",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "tools/demo.py"), *map(str, arguments)]


def environment() -> dict[str, str]:
    # One thread: tiny tensors, and other tests may run beside.
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def demo(cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the tool in an empty folder, as a user would who is not in the clone."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


def write_photo(path: Path, shape: tuple[int, ...] = (60, 80, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, photo)[1])


def run_dirs(work_dir: Path) -> list[Path]:
    return sorted(path for path in work_dir.iterdir() if path.is_dir())


@pytest.mark.slow
def test_nested_folder_of_odd_images_twice(tmp_path: Path) -> None:
    photos, work_dir = tmp_path / "my photos", tmp_path / "out"
    write_photo(photos / "a" / "same.JPG")
    write_photo(photos / "b" / "c" / "same.png", (300, 500))  # grey
    write_photo(photos / "b" / "alpha.png", (20, 30, 4))  # smaller than the crop
    write_photo(photos / "b" / "panorama.jpg", (300, 6000, 3))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (photos / "notes.txt").write_text("no image either")

    arguments = ["--data", photos, "--work-dir", work_dir, "--max-iters", "3", *TINY]
    first = demo(tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    assert "broken.jpg" in first.stdout
    assert re.search(r"step 1/3  loss: \d.* eta: ", first.stdout)
    assert len(first.stdout.splitlines()) < 20
    assert "Trained 3 steps" in first.stdout
    (old_run,) = run_dirs(work_dir)
    assert len(list((old_run / "photographs").iterdir())) == 4

    for name in ("loss_curve.png", "predictions.png"):
        assert str(work_dir / name) in first.stdout
        assert min(cv2.imread(str(work_dir / name)).shape[:2]) > 300
    encoder = read_state_dict(work_dir / "encoder.pth")
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    plain = dict(
        type="VisionTransformer", arch=arch, img_size=64, patch_size=8, final_norm=False
    )
    MODELS.build(plain).load_state_dict(encoder, strict=True)

    # Again, with the sample photographs: the new results replace the old ones, which
    # stay in the folder of their run.
    old_picture = (work_dir / "predictions.png").read_bytes()
    second = demo(tmp_path, "--data", "", *arguments[2:])
    assert second.returncode == 0, second.stderr
    assert (work_dir / "predictions.png").read_bytes() != old_picture
    assert (old_run / "predictions.png").read_bytes() == old_picture
    _, new_run = run_dirs(work_dir)
    assert (new_run / "photographs" / "0000_astronaut.jpg").is_file()


@pytest.mark.slow
def test_missing_folder_is_one_line(tmp_path: Path) -> None:
    run = demo(tmp_path, "--data", tmp_path / "data", "--work-dir", tmp_path / "out")
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"error: --data '{tmp_path / 'data'}' does not exist")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("empty", "holds no images; 1 left out (1 .txt)"),
        ("file", "is a file"),
        ("broken", "none of the 2 images can be read"),
        ("work dir is a file", "cannot make"),
    ],
)
def test_unusable_input_is_one_line_and_leaves_nothing(
    case: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, work_dir = tmp_path / "data", tmp_path / "out"
    (data / "sub").mkdir(parents=True)
    (data / "sub" / "notes.txt").touch()
    if case == "file":
        data = data / "sub" / "notes.txt"
    elif case == "broken":
        for name in ("a.jpg", "b.png"):
            (data / name).write_bytes(b"no image")
    elif case == "work dir is a file":
        write_photo(data / "photo.png")
        work_dir = data / "sub" / "notes.txt"
    arguments = ["--data", str(data), "--work-dir", str(work_dir)]
    before = sorted(tmp_path.rglob("*"))
    assert run_tool("demo", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_interrupt_leaves_no_mess(tmp_path: Path) -> None:
    """Ctrl-C, which reaches the data worker too; results of earlier runs stay."""
    write_photo(tmp_path / "data" / "photo.png")
    work_dir = tmp_path / "out"
    work_dir.mkdir()
    (work_dir / "encoder.pth").touch()
    arguments = ["--data", tmp_path / "data", "--work-dir", work_dir, *TINY]
    options = [
        "train_cfg.max_iters=100000",
        "train_dataloader.num_workers=1",
        "train_dataloader.persistent_workers=True",
    ]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command(*arguments, *options),
            cwd=tmp_path, env=environment(), stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
            # A suite that runs in the background ignores Ctrl-C, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 200
            while "step 1/" not in log.read_text() and time.monotonic() < deadline:
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=300) == 130
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()
    assert [path.name for path in work_dir.iterdir()] == ["encoder.pth"]
