"""A checkpoint of an earlier version goes on as that version did, and is an encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from saim_mm.evaluation.encoders import build_encoder
from saim_mm.launch import fit_to_machine

DATA = Path(__file__).parent / "data"
CHECKPOINT = DATA / "earlier_checkpoint.pth"
RECORD = json.loads((DATA / "earlier_checkpoint.json").read_text())
DEBUG = Path(__file__).parents[1] / "configs/saim/saim_debug.py"


class Losses(Hook):
    """Keeps the loss of every iteration."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self.seen.append(outputs["loss"].item())


def on_the_machine_of_the_record() -> bool:
    """Whether torch and the processor, by which it chooses kernels, are the same."""
    return (
        torch.__version__.split("+")[0] == RECORD["torch"]
        and torch.backends.cpu.get_cpu_capability() == RECORD["cpu_capability"]
        and Path("/proc/cpuinfo").is_file()
        and RECORD["cpu"] in Path("/proc/cpuinfo").read_text()
    )


def test_it_resumes_with_the_same_losses(tmp_path: Path) -> None:
    """It holds two iterations of a step of four, whose gradients are computed anew."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cfg = Config.fromfile(DEBUG)
    cfg.merge_from_dict(RECORD["options"])
    cfg.update(work_dir=str(tmp_path), load_from=str(CHECKPOINT), resume=True)
    fit_to_machine(cfg)
    runner = Runner.from_cfg(cfg)
    losses = Losses()
    runner.register_hook(losses)
    runner.train()
    torch.set_num_threads(threads)
    assert len(losses.seen) == 10
    if on_the_machine_of_the_record():
        assert losses.seen == RECORD["losses"]
    # Other kernels round otherwise: little at first, and more with each step of AdamW.
    assert losses.seen[0] == pytest.approx(RECORD["losses"][0], rel=1e-6)
    assert losses.seen == pytest.approx(RECORD["losses"], rel=1e-4)


def test_it_is_an_encoder() -> None:
    state = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    encoder = build_encoder(CHECKPOINT, num_heads=2)
    loaded = encoder.backbone.state_dict()
    names = [name for name in loaded if f"backbone.{name}" in state]
    assert len(names) == len(loaded) > 50
    assert all(torch.equal(loaded[name], state[f"backbone.{name}"]) for name in names)
    features = encoder.backbone(torch.zeros(1, 3, 32, 32))[0]
    assert features.isfinite().all()
