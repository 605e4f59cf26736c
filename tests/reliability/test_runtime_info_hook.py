"""DeferredRuntimeInfoHook logs what MMEngine's hook logs, and reads it later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from saim_mm.reliability.runtime_info_hook import DeferredRuntimeInfoHook


class Waiting(DeferredRuntimeInfoHook):
    """Takes every tensor for one on a GPU, and counts how often it reads some."""

    def __init__(self) -> None:
        super().__init__()
        self.read_at: list[int] = []

    def _must_wait(self, value: Any) -> bool:
        return isinstance(value, Tensor)

    def hand_over(self, runner: Runner) -> None:
        self.read_at.append(runner.iter + 1)
        super().hand_over(runner)


class Model(nn.Module):
    """Its losses are all different, in single and half precision and plain floats."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def train_step(self, data: Tensor, optim_wrapper: Any) -> dict[str, Any]:
        value = data.float().sum() / 7 * self.weight
        return dict(loss=value, half=value.detach().bfloat16(), number=float(value))


def train(work_dir: Path, hook: Any, **options: Any) -> dict[str, list[float]]:
    """Every value that reached the message hub, by name."""
    runner = Runner(
        Model(),
        str(work_dir),
        train_dataloader=DataLoader(list(range(22)), batch_size=2),  # 11 iterations
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(
            runtime_info=hook, logger=dict(type="LoggerHook", interval=4)
        ),
        experiment_name=f"{work_dir.name}_{id(hook)}",
        **options,
    )
    runner.train()
    scalars = runner.message_hub.log_scalars
    return {
        name: scalars[f"train/{name}"].data[0].tolist()
        for name in ("loss", "half", "number")
    }


def test_every_loss_arrives_as_with_mmengine(tmp_path: Path) -> None:
    waiting = Waiting()
    wanted = train(tmp_path / "a", RuntimeInfoHook())
    assert train(tmp_path / "b", waiting) == wanted
    assert train(tmp_path / "c", DeferredRuntimeInfoHook()) == wanted
    assert len(wanted["loss"]) == 22
    # Where the logger logs (every 4 of the epoch's 11) and at the end of an epoch.
    assert waiting.read_at == [4, 8, 11, 15, 19, 22]


def test_on_a_cpu_nothing_is_put_off(tmp_path: Path) -> None:
    class Counting(Waiting):
        _must_wait = DeferredRuntimeInfoHook._must_wait

    hook = Counting()
    train(tmp_path, hook)
    assert hook.read_at == list(range(1, 23))


@pytest.mark.parametrize("interval", [3, 5])
def test_no_loss_is_missing_from_a_checkpoint(tmp_path: Path, interval: int) -> None:
    def history(hook: Any, name: str) -> list[float]:
        saving = dict(type="CheckpointHook", by_epoch=False, interval=interval)
        train(tmp_path / name, hook, custom_hooks=[saving])
        path = tmp_path / name / f"iter_{interval}.pth"
        saved = torch.load(path, weights_only=False)["message_hub"]
        return saved["log_scalars"]["train/loss"].data[0].tolist()

    saved = history(Waiting(), "late")
    assert len(saved) == interval
    assert saved == history(RuntimeInfoHook(), "at_once")


@pytest.mark.parametrize("hook", [Waiting, DeferredRuntimeInfoHook])
def test_only_the_last_iterations_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: Any
) -> None:
    whole = train(tmp_path / "whole", hook())
    monkeypatch.setattr("saim_mm.reliability.runtime_info_hook.HISTORY", 5)
    short = train(tmp_path / "short", hook())
    assert short == {name: values[-5:] for name, values in whole.items()}
