"""The classifier's benchmark, really launched; how fast it is, is never asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS

from benchmarks.classifier import VARIANTS
from saim_mm.models import SAIMViT

ROOT = Path(__file__).parents[2]
CONFIG = "configs/saim/benchmarks/vit-b_finetune_100e_in1k.py"
SHRUNK = ["model.backbone.arch=deit-tiny", "model.backbone.img_size=32",
          "model.head.in_channels=192"]  # fmt: skip


def launch(
    *arguments: str, name: str = "classifier", config: str = CONFIG
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", name, config, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def test_variants_have_the_backbones_they_are_named_after() -> None:
    built = []
    for change in VARIANTS.values():
        model = Config.fromfile(ROOT / CONFIG).model
        change(model)
        model.backbone.init_cfg = None
        with torch.device("meta"):
            built.append(type(MODELS.build(model.backbone)))
    assert built == [VisionTransformer, SAIMViT]


@pytest.mark.slow
def test_both_backbones_train(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    run = launch(
        "--batch-size", "2", "--steps", "2", "--warm-up", "0", "--out", str(out),
        "--cfg-options", *SHRUNK,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    record = json.loads(out.read_text())
    assert {"command", "commit", "hardware", "versions"} <= set(record)
    theirs, ours = record["results"]
    assert [theirs["variant"], ours["variant"]] == [
        "mmpretrain's VisionTransformer", "as configured",
    ]  # fmt: skip
    assert theirs["times_the_first"] == 1
    for result in (theirs, ours):
        assert result["fastest"] <= result["seconds_per_step"] <= result["slowest"]
        assert result["peak_mib"] >= result["built_mib"] > 0
        assert result["variant"] in run.stdout
        # 1000 classes, and the head begins near zero.
        assert result["loss"] == pytest.approx(math.log(1000), rel=0.05)


@pytest.mark.slow
def test_no_steps_are_refused() -> None:
    run = launch("--steps", "0")
    assert run.returncode == 2
    assert "--steps must be positive" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "model"),
    [
        ("classifier", "configs/saim/saim_debug.py", "SAIM"),
        ("detector", "configs/coco/vitdet_saim-vit-b_100e_coco.py", "MaskRCNN"),
        ("detector", CONFIG, "ImageClassifier"),
    ],
)
def test_a_config_of_another_kind_is_refused(
    name: str, config: str, model: str
) -> None:
    run = launch(name=name, config=config)
    assert run.returncode == 2
    assert f"{config} builds a {model}; see --help" in run.stderr
