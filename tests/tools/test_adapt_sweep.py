"""Configs of mmdet and mmseg, drawn by lot, with the encoder."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from tiny import randomise, tiny_config

from tools.analysis_tools import adapt_sweep

pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

SAMPLE = 30  # of each package
MARK = 0.95
FCN = "mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    saim = MODELS.build(
        tiny_config(image_size=224, patch_size=16, embed_dims=64, depth=1)
    )
    randomise(saim, seed=0)
    path = tmp_path_factory.mktemp("pretraining") / "epoch_800.pth"
    torch.save(dict(state_dict=saim.state_dict()), path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_a_sample_takes_the_encoder(package: str, encoder: str) -> None:
    """Of those that can themselves be trained here, 95 %; ``main`` tries them all."""
    configs = list(adapt_sweep.configs_of(package))
    random.Random(0).shuffle(configs)
    known: dict[str, str] = {}
    outcomes: dict[str, bool | None] = {}  # group -> taken; None: out of reach itself
    taken: list[bool] = []
    failures = []
    for config in configs:
        group = adapt_sweep.group_of(config, known)
        if group is None:
            continue
        if group not in outcomes:
            outcome = adapt_sweep.try_new(config, encoder)
            outcomes[group] = outcome == "ok"
            if outcome != "ok" and adapt_sweep.try_old(config) != "ok":
                outcomes[group] = None
            elif outcome != "ok":
                failures.append(f"{config}: {outcome}")
        success = outcomes[group]
        if success is not None:
            taken.append(success)
        if len(taken) == SAMPLE:
            break
    assert len(taken) == SAMPLE
    assert sum(taken) >= MARK * SAMPLE, failures


def test_groups_leave_schedules_out() -> None:
    known: dict[str, str] = {}
    groups = [
        adapt_sweep.group_of(config, known)
        for config in (
            FCN,
            "mmseg::fcn/fcn_r18b-d8_4xb2-80k_cityscapes-769x769.py",
            "mmseg::fcn/fcn_r50-d8_4xb2-80k_cityscapes-512x1024.py",
        )
    ]
    assert groups[0] == groups[1].replace("| ResNet |", "| ResNetV1c |")
    assert groups[0] != groups[2]
    assert "(64, 128, 256, 512)" in groups[0]
    assert "FCNHead | FCNHead" in groups[0]
    assert adapt_sweep.group_of("mmseg::san/no-such.py", known).startswith("unreadable")


def test_it_resumes_and_counts(
    tmp_path: Path,
    encoder: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    groups = {
        "able": [FCN, FCN],
        "refused": ["mmseg::b.py"],
        "unable": ["mmseg::c.py"] * 7,
        "assumed": ["mmseg::d.py"] * 4,
    }
    (tmp_path / "mmseg_groups.json").write_text(json.dumps(groups))
    done = dict(
        refused=dict(new="ValueError: no", old="ok"),
        unable=dict(new="ok", old="no net"),
        assumed=dict(new="ok"),
    )
    (tmp_path / "mmseg.json").write_text(json.dumps(done))
    monkeypatch.setitem(adapt_sweep._SIDES, "mmseg", (64,))
    out = tmp_path / "result.json"
    arguments = ["mmseg", encoder, str(tmp_path), "--quick", "--out", str(out)]
    assert adapt_sweep.main(arguments) == 0
    records = json.loads((tmp_path / "mmseg.json").read_text())
    assert records == {**done, "able": dict(new="ok")}
    assert adapt_sweep.try_old(FCN) == "ok"
    result = json.loads(out.read_text())
    assert result["able_and_taken"] == 6 and result["percent"] == 85.7
    assert result["failures"][0] == dict(
        configs=1, first="mmseg::b.py", new="ValueError: no", old="ok"
    )
    assert result["versions"]["mmseg"] != "not installed"
    out = capsys.readouterr().out
    assert "14 configs in 4 groups, 14 in 4 tried; 13 take the encoder." in out
    assert "1 train as they are, 6 were not tried so; of these 6 take the" in out
    assert "encoder: 85.7 %." in out
    assert "mmseg::b.py\n       new: ValueError: no\n       old: ok" in out


def test_a_try_that_takes_too_long_ends(encoder: str) -> None:
    outcome = adapt_sweep.try_new(FCN, encoder, seconds=0.01)
    assert outcome == "not done in 0.01 s"
