"""The example project: a user's head, by a user's config."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from projects.example_head.head import SmoothL1Head
from saim_mm.launch import fit_to_machine
from saim_mm.models import OrderSampler, SAIMHead

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "projects/example_head/configs/saim_debug_smooth-l1.py"


class LossRecorder(Hook):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self.losses.append(outputs["loss"].item())


def test_it_trains_and_learns(tmp_path: Path) -> None:
    cfg = Config.fromfile(CONFIG)
    cfg.work_dir = str(tmp_path)
    fit_to_machine(cfg)
    runner, recorder = Runner.from_cfg(cfg), LossRecorder()
    runner.register_hook(recorder)
    runner.train()
    assert type(runner.model.head) is SmoothL1Head
    assert runner.model.head.beta == 0.5
    assert len(recorder.losses) == 20
    assert sum(recorder.losses[-3:]) < 0.9 * sum(recorder.losses[:3])


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_loss_is_smooth_l1_of_the_same_target(beta: float) -> None:
    options = dict(embed_dims=8, patch_size=(4, 4))
    head, plain = SmoothL1Head(beta, **options), SAIMHead(**options)
    plain.load_state_dict(head.state_dict())
    queries, images = torch.randn(2, 4, 8), torch.randn(2, 3, 8, 8)
    plan = OrderSampler("stochastic", (2, 2)).plan(2, images.device)
    expected = F.smooth_l1_loss(
        plain(queries), plain.target(images, plan.asked), beta=beta
    )
    torch.testing.assert_close(head.loss(queries, images, plan), expected)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="beta=0 must be greater than 0"):
        SmoothL1Head(beta=0)
    with pytest.raises(TypeError, match="smothing"):
        SmoothL1Head(smothing=None)
