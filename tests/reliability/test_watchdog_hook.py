"""A rank that is killed or stuck ends all of them, and the log names it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from forked_runs import Child, Ledger, build_runner, run_config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import distributed

from saim_mm.reliability.rank_progress import (
    Heartbeat,
    code_location_of,
    is_busy,
    is_waiting,
    patient_code,
    stuck_ranks,
)
from saim_mm.reliability.watchdog_hook import EXIT_STUCK, WatchdogHook

ROOT = Path(__file__).parents[2]


def beat(position: int, seconds: float = 100, busy: bool = False, waits: bool = False):
    return Heartbeat(1, position, seconds, busy, waits, "model.py:1 (forward)")


# ---- who it is -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beats", "stuck"),
    [
        ([beat(5, waits=True), beat(4)], [1]),  # waits for its batch
        ([beat(6, waits=True), beat(5), beat(5)], [1, 2]),
        ([beat(5, waits=True), beat(5)], [1]),  # equally far
        ([beat(5, waits=True), beat(5, waits=True)], [0, 1]),
        ([beat(5), beat(4, seconds=49)], []),
        ([beat(5, seconds=1), beat(4)], [1]),  # has just begun to wait
        ([beat(5), beat(4, busy=True)], []),  # saves, and the others wait
        ([beat(6, busy=True), beat(5)], [1]),  # waits in a hook
        ([beat(1), beat(0)], []),  # the first iteration
    ],
)
def test_stuck_ranks(beats: list[Heartbeat], stuck: list[int]) -> None:
    assert stuck_ranks(dict(enumerate(beats)), timeout=50) == stuck


def test_beats_are_the_same_when_they_arrive() -> None:
    assert Heartbeat(*json.loads(json.dumps(beat(3)))) == beat(3)


def frame_within(call: Callable[[Callable[[], None]], Any]) -> FrameType:
    """The frame of a function that is handed to ``call``."""
    frames = []
    call(lambda: frames.append(sys._getframe()))
    return frames[0]


def test_hooks_and_validation_may_take_their_time(tmp_path: Path) -> None:
    class Calls(Hook):
        def after_run(self, runner: Runner) -> None:
            self.function()

    data = dict(
        batch_size=1,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(type="Numbers", length=1),
    )
    config = run_config(
        tmp_path,
        val_dataloader=data,
        val_cfg=dict(type="ValLoop"),
        val_evaluator=[],
        test_dataloader={**data, "dataset": dict(type="NotThere")},  # must not be built
        test_cfg=dict(type="TestLoop"),
        test_evaluator=[],
    )
    runner = build_runner(config)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    patient = patient_code(runner)
    hook = Calls()
    runner.register_hook(hook)

    def in_hook(function: Callable[[], None]) -> None:
        hook.function = function
        runner.call_hook("after_run")

    def in_validation(function: Callable[[], None]) -> None:
        runner.model.register_forward_hook(lambda *_: function())
        runner.val_loop.run()

    def in_step(function: Callable[[], None]) -> None:
        inputs = dict(inputs=torch.ones(2, 4))
        optimizer = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.model.register_forward_hook(lambda *_: function())
        runner.model.train_step(inputs, optimizer)

    assert is_busy(frame_within(in_hook), patient)
    assert is_busy(frame_within(in_validation), patient)
    assert not is_busy(frame_within(in_step), patient)


@pytest.mark.slow
def test_compiling_may_take_its_time() -> None:
    """Not so what was compiled, which has functions of torch.compile around it."""
    seen = []

    def see() -> None:
        seen.append(is_busy(sys._getframe(), ()))

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        see()

        def run(*arguments: Any) -> Any:
            see()
            return graph(*arguments)

        return run

    torch.compile(torch.nn.Linear(2, 2), backend=backend)(torch.ones(1, 2))
    assert seen == [True, False]


def test_who_waits_and_where() -> None:
    layer = torch.nn.Linear(1, 1)
    frames = {}

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            frames["own"] = sys._getframe()
            frames["engine"] = sys._getframe().f_back
            return gradient

    Function.apply(layer(torch.ones(1))).backward()
    assert is_waiting(frames["engine"]) and not is_waiting(frames["own"])
    place = code_location_of(frames["engine"])
    assert "called from test_watchdog_hook.py" in place
    assert code_location_of(frames["own"]).startswith("test_watchdog_hook.py")


@pytest.mark.parametrize("options", [dict(timeout=0), dict(silence=-1.0)])
def test_bad_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="50 and 20 are the defaults"):
        WatchdogHook(**options)


def test_does_nothing_in_a_single_process(tmp_path: Path) -> None:
    config = run_config(tmp_path, max_epochs=1)
    config["default_hooks"]["watchdog"] = dict(type="WatchdogHook")
    runner = build_runner(config)
    hook = next(h for h in runner.hooks if isinstance(h, WatchdogHook))
    hook.before_train(runner)
    assert hook._watch is None


# ---- two ranks -----------------------------------------------------------------------


@HOOKS.register_module(force=True)
class Trouble(Hook):
    """Happens to one rank in iteration 3, or before the one that follows."""

    def __init__(self, kind: str, rank: int) -> None:
        self.kind, self.rank = kind, rank

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        if distributed.get_rank() != self.rank or runner.iter != 2:
            return
        if self.kind == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.kind == "step":
            runner.model.module.forward = hang
        elif self.kind == "loader":
            runner.train_dataloader.dataset.seconds = 1000.0
        elif self.kind == "hook":
            time.sleep(3)


def hang(*args: Any, **options: Any) -> None:
    time.sleep(1000)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def rank(pipe: int, number: int, port: int, log: Path, config: dict[str, Any]) -> None:
    sys.stdout = sys.stderr = log.open("a")
    os.environ.update(
        RANK=str(number), WORLD_SIZE="2", LOCAL_RANK=str(number),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    distributed.init_process_group("gloo")
    config.update(
        launcher="pytorch",
        model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None),
    )
    runner = build_runner(config)
    runner.register_hook(Ledger(pipe))
    runner.train()


def run_ranks(
    tmp_path: Path, kind: str, troubled: int, **options: Any
) -> tuple[list[Child], Path]:
    port, log, ranks = free_port(), tmp_path / "log", []
    for number in range(2):
        config = run_config(tmp_path, **{"max_epochs": 3, **options})
        config["experiment_name"] = "two_ranks"
        config["custom_hooks"] = [dict(type="Trouble", kind=kind, rank=troubled)]
        config["default_hooks"]["watchdog"] = dict(
            type="WatchdogHook", timeout=1.5, silence=1.5
        )
        ranks.append(
            Child(lambda pipe, n=number, c=config: rank(pipe, n, port, log, c))
        )
    return ranks, log


@pytest.mark.parametrize(
    ("kind", "troubled", "reason"),
    [
        ("stopped", 1, "rank 1 shows no sign of life"),
        pytest.param(
            "stopped", 0, "rank 0 shows no sign of life", marks=pytest.mark.slow
        ),
        pytest.param(
            "step", 1, "rank 1 got no further for 1.5 s", marks=pytest.mark.slow
        ),
        pytest.param("step", 0, "rank 0 got no further", marks=pytest.mark.slow),
        pytest.param("loader", 0, "rank 0 got no further", marks=pytest.mark.slow),
        pytest.param("loader", 1, "rank 1 got no further", marks=pytest.mark.slow),
    ],
)
def test_a_stuck_rank_ends_all(
    tmp_path: Path, kind: str, troubled: int, reason: str
) -> None:
    ranks, log = run_ranks(tmp_path, kind, troubled)
    healthy = ranks[1 - troubled]
    healthy.wait_for(b"i", times=2)
    assert healthy.join(60) == EXIT_STUCK
    if kind == "stopped":
        ranks[troubled].signal(signal.SIGKILL)  # as its launcher does
    assert ranks[troubled].join(60) != 0
    text = log.read_text()
    assert text.count("all processes end") == 1, text
    assert reason in text
    if kind == "step":
        assert f"rank {troubled}: in the step of iteration 3, test_watchdog" in text
        assert "(hang)" in text
    if kind == "loader":
        where = rf"rank {troubled}: loading the batch of iteration [456], forked_runs"
        assert re.search(where, text), text
        assert "(__getitem__)" in text


@pytest.mark.slow
def test_a_hook_may_take_its_time(tmp_path: Path) -> None:
    ranks, log = run_ranks(tmp_path, "hook", 1)
    assert [child.join() for child in ranks] == [0, 0]
    assert [child.told.count(b"i") for child in ranks] == [9, 9]
    assert "all processes end" not in log.read_text()


@pytest.mark.slow
def test_a_job_may_be_suspended(tmp_path: Path) -> None:
    ranks, log = run_ranks(tmp_path, "none", 0, seconds=0.2, max_epochs=8)
    for child in ranks:
        child.wait_for(b"i", times=2)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for child in ranks:
            child.signal(number)
        time.sleep(4)
    assert [child.join() for child in ranks] == [0, 0], log.read_text()
    assert "all processes end" not in log.read_text()
