"""Tiny runs in forked processes, to be signalled or killed.

A fork of this process has the stack imported, so that a run begins in no time.
"""

from __future__ import annotations

import itertools
import os
import select
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from saim_mm.reliability import SafeCheckpointHook

RUNS = itertools.count()


@DATASETS.register_module(force=True)
class Numbers(Dataset):
    """Numbers from 0 on; some take their time."""

    def __init__(self, length: int, seconds: float = 0.0) -> None:
        self.length, self.seconds = length, seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index % 3 == 0:
            time.sleep(self.seconds)
        return dict(inputs=torch.full((4,), float(index) / self.length))


@MODELS.register_module(force=True)
class Regression(BaseModel):
    """One linear layer of ``width`` outputs, of which the square is made small."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)

    def forward(self, inputs: Tensor, mode: str = "loss") -> Any:
        outputs = self.linear(torch.stack(list(inputs)))
        return {"loss": outputs.square().mean()} if mode == "loss" else outputs


class Ledger(Hook):
    """Writes a byte for what happened to a pipe, which outlives a killed process."""

    priority = "VERY_LOW"

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def before_train_epoch(self, runner: Runner) -> None:
        os.write(self.pipe, b"e")

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        os.write(self.pipe, b"i")


def run_config(
    work_dir: Path,
    *,
    num_workers: int = 0,
    length: int = 12,
    max_epochs: int = 10_000,
    width: int = 4,
    seconds: float = 0.0,
    checkpoint: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A training run of :class:`Regression`, with the hooks of the default runtime.

    Args:
        work_dir: Where it writes.
        num_workers: Data workers; begun anew in every epoch.
        length: Numbers in an epoch, in batches of two.
        max_epochs: Number of epochs.
        width: Width of the model, which sets the size of a checkpoint.
        seconds: What every third number takes to load.
        checkpoint: Options of ``SafeCheckpointHook``.
        **options: Other keys of the config.
    """
    return dict(
        model=dict(type="Regression", width=width),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            num_workers=num_workers,
            sampler=dict(type="ExactSampler", shuffle=True),
            dataset=dict(type="Numbers", length=length, seconds=seconds),
        ),
        train_cfg=dict(type="ExactEpochLoop", max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type="Adam", lr=0.01)),
        param_scheduler=dict(type="MultiStepLR", milestones=[2, 4], by_epoch=True),
        default_hooks=dict(
            checkpoint={
                "type": "SafeCheckpointHook",
                "interval": -1,
                **(checkpoint or {}),
            },
            logger=dict(type="LoggerHook", interval=1000),
            preemption=dict(type="PreemptionHook"),
            exact_resume=dict(type="ExactResumeHook"),
        ),
        visualizer=None,
        log_level="ERROR",
        randomness=dict(seed=0),
        experiment_name=f"forked_{next(RUNS)}",
        **options,
    )


def build_runner(config: dict[str, Any]) -> Runner:
    return Runner.from_cfg(config)


class Child:
    """A forked process that leads a process group of its own.

    Args:
        run: What it does, with the pipe to write to.
    """

    def __init__(self, run: Callable[[int], Any]) -> None:
        self._reader, writer = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            _run_and_exit(run, writer)
        os.close(writer)
        os.set_blocking(self._reader, False)
        self.told = b""

    def wait_for(self, byte: bytes, times: int = 1, timeout: float = 120) -> None:
        """Waits until the child has written a byte, so many times."""
        end = time.monotonic() + timeout
        while self.told.count(byte) < times:
            assert time.monotonic() < end, f"waiting for {byte!r}: {self.told!r}"
            select.select([self._reader], [], [], 0.1)
            self._read()

    def signal(self, number: int) -> None:
        """Signals the child and all processes that it has started."""
        os.killpg(self.pid, number)

    def join(self, timeout: float = 120) -> int:
        """Waits for its end.

        Returns:
            The exit code, or the negative number of the signal that ended it.
        """
        end = time.monotonic() + timeout
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._read()
            if pid:
                os.close(self._reader)
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                self.signal(9)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"did not end: {self.told[-20:]!r}")
            time.sleep(0.002)

    def has_offspring(self) -> bool:
        """Whether a process of its group is still there."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _read(self) -> None:
        try:
            while chunk := os.read(self._reader, 65536):
                self.told += chunk
        except BlockingIOError:
            pass


def _run_and_exit(run: Callable[[int], Any], pipe: int) -> None:
    code = 1
    try:
        try:
            os.setpgid(0, 0)
            run(pipe)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    finally:
        # torch's handler of SIGCHLD raises wherever it finds the process, above too;
        # a child that got past this line would go on with its parent's tests.
        os._exit(1)


def prepare_to_save(runner: Runner) -> SafeCheckpointHook:
    """Builds what a checkpoint holds, as ``train`` does, and returns the hook."""
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    hook = next(h for h in runner.hooks if isinstance(h, SafeCheckpointHook))
    hook.before_train(runner)
    return hook
