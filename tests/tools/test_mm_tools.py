"""mm's own tools, as they are installed, on our configs."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).parents[2]


def run_mm_tool(package: str, name: str, *arguments: object) -> None:
    module = importlib.import_module(package)
    tool = Path(module.__file__).parent / ".mim" / "tools" / name
    if not tool.is_file():
        pytest.skip(f"{package} was installed without its tools")
    before = sys.argv
    sys.argv = [str(tool), *map(str, arguments)]
    try:
        runpy.run_path(str(tool), run_name="__main__")
    finally:
        sys.argv = before


@pytest.fixture(autouse=True)
def no_window() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")


@pytest.mark.slow
@pytest.mark.parametrize("parameter", ["lr", "momentum", "wd"])
@pytest.mark.parametrize(
    "config",
    [
        "saim/saim_debug.py",
        "saim/benchmarks/vit-b_finetune_100e_in1k.py",
        "saim/benchmarks/vit-b_linear_90e_in1k.py",
        "coco/vitdet_saim-vit-b_100e_coco.py",
        "ade20k/upernet_saim-vit-b_160k_ade20k-512.py",
    ],
)
def test_vis_scheduler(config: str, parameter: str, tmp_path: Path) -> None:
    for package in ("mmdet",) * ("coco" in config) + ("mmseg",) * ("ade" in config):
        pytest.importorskip(package)
    batch = dict(saim=1024, coco=4, ade20k=4)[config.split("/")[0]]  # one, or more
    options = [f"work_dir={tmp_path}"]
    options += ["train_cfg.max_iters=200"] if "ade20k" in config else []
    # mm's own mixed precision needs a GPU.
    options += ["optim_wrapper.type=OptimWrapper"] if "linear" in config else []
    out = tmp_path / "curve.png"
    arguments = ["-p", parameter, "-d", batch, "-s", out, "--not-show"]
    run_mm_tool(
        "mmpretrain", "visualization/vis_scheduler.py", ROOT / "configs" / config,
        *arguments, "--cfg-options", *options,
    )  # fmt: skip
    assert cv2.imread(str(out)).shape[2] == 3


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["original", "transformed", "concat", "pipeline"])
def test_browse_dataset(mode: str, tmp_path: Path) -> None:
    """On images that are made, whose names must be those of pictures."""
    config = ROOT / "configs/saim/saim_debug.py"
    arguments = ["-o", tmp_path, "-m", mode, "-n", 2, "--not-show"]
    run_mm_tool("mmpretrain", "visualization/browse_dataset.py", config, *arguments)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["0.png", "1.png"]
