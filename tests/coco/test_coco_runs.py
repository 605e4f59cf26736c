"""Detectors on real images, by the tools."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from coco_recipes import LI2021, REPO, VITDET, config_id, load


def run(*command: str | Path) -> str:
    """Runs a tool of this repository; its output."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=REPO,
        # One thread: more only get in each other's way in so small a model.
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    "SAIM_MM_DATA" not in os.environ,
    reason="set SAIM_MM_DATA to a folder with coco/{train2017,val2017,annotations}",
)
@pytest.mark.parametrize("path", [LI2021, VITDET], ids=config_id)
def test_real_images_train_resume_evaluate_and_draw(path: Path, tmp_path: Path) -> None:
    root = f"{os.environ['SAIM_MM_DATA']}/coco/"
    cfg = load(path)
    cfg.merge_from_dict(
        {
            "val_evaluator.ann_file": f"{root}annotations/instances_val2017.json",
            "test_evaluator.ann_file": f"{root}annotations/instances_val2017.json",
            "default_hooks.logger.interval": 1,
            "default_hooks.visualization.score_thr": 0.0,
            "model.test_cfg.rcnn.score_thr": 0.0,
            "model.test_cfg.rcnn.max_per_img": 5,
        }
    )
    for name in ("train", "val", "test"):
        loader = cfg[f"{name}_dataloader"]
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = root
        for transform in loader.dataset.pipeline:
            for size in ("scale", "crop_size"):
                if size in transform:
                    transform[size] = (128, 128)
    epochs = path == LI2021
    if epochs:
        cfg.train_dataloader.dataset.indices = 8
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 2
    else:
        cfg.default_hooks.checkpoint.interval = 4
        cfg.train_cfg.update(max_iters=4, val_interval=4)
    tiny, work = tmp_path / "tiny.py", tmp_path / "work"
    cfg.dump(tiny)

    log = run("tools/train.py", tiny, "--work-dir", work)
    assert "coco/bbox_mAP" in log and "coco/segm_mAP" in log
    last = "epoch_1.pth" if epochs else "iter_4.pth"
    assert (work / last).is_file()

    more = "train_cfg.max_epochs=2" if epochs else "train_cfg.max_iters=6"
    log = run(
        "tools/train.py", tiny, "--work-dir", work, "--resume", "--cfg-options", more
    )
    assert re.search(r"resumed epoch: [01], iter: 4", log)
    trained = work / ("epoch_2.pth" if epochs else "iter_6.pth")
    assert trained.is_file()

    run(
        "tools/test.py", tiny, trained, "--work-dir", work,
        "--out", work / "metrics.json", "--show-dir", work / "shown",
    )  # fmt: skip
    metrics = json.loads((work / "metrics.json").read_text())
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(metrics)
    assert len(list((work / "shown").glob("*.jpg"))) == 6
