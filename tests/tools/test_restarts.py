"""tools/dist_train.sh, and a rank of it that is killed or stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saim_mm.reliability.watchdog_hook import EXIT_STUCK

ROOT = Path(__file__).parents[2]
EPOCHS = 4


class Run:
    """The debug config in two processes, watched."""

    def __init__(self, work_dir: Path, restarts: int) -> None:
        command = [
            "tools/dist_train.sh", "configs/saim/saim_debug.py", "2",
            "--work-dir", str(work_dir), "--cfg-options",
            f"train_cfg.max_epochs={EPOCHS}", "train_dataloader.num_workers=1",
            "train_dataloader.dataset.num_images=1920",
            "default_hooks.watchdog.type=WatchdogHook",
            "default_hooks.watchdog.silence=4",
        ]  # fmt: skip
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("NNODES", "PORT")
        }
        environment.update(
            PYTHON=sys.executable,
            CUDA_VISIBLE_DEVICES="",
            MAX_RESTARTS=str(restarts),
        )
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.log = ""

    def signal_rank(self, rank: int, number: int, when: str) -> None:
        """Signals a rank once the log shows that it is time."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += line
            if re.search(when, line):
                os.kill(self._pid_of(rank), number)
                return
        raise AssertionError(self.log)

    def join(self, timeout: float) -> int:
        try:
            self.log += self.process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        return self.process.returncode

    def _pid_of(self, rank: int) -> int:
        agent = self.process.pid
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        for child in children:
            try:
                variables = Path(f"/proc/{child}/environ").read_text()
            except ProcessLookupError:  # has ended, and torchrun does not know yet
                continue
            if f"RANK={rank}" in variables.split("\0"):
                return int(child)
        raise AssertionError(f"rank {rank} is not there: {self.log}")


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(work_dir / f"epoch_{EPOCHS}.pth", weights_only=True)
    return checkpoint["state_dict"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    work_dir = tmp_path_factory.mktemp("uninterrupted")
    run = Run(work_dir, restarts=0)
    assert run.join(200) == 0, run.log
    return weights(work_dir)


CASES = [(signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGSTOP, 0)]
IDS = ["killed", "stopped", "first stopped"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "rank"), CASES, ids=IDS)
def test_all_end_within_a_minute(tmp_path: Path, number: int, rank: int) -> None:
    run = Run(tmp_path, restarts=0)
    run.signal_rank(rank, number, when=r"\[2\]\[15/30\]")
    assert run.join(60) == 1
    if number == signal.SIGKILL:
        assert re.search(r"rank +: 1 \(local_rank: 1\)\s+exitcode +: -9", run.log)
    else:
        assert f"rank {rank} shows no sign of life" in run.log
        assert re.search(rf"exitcode +: {EXIT_STUCK}", run.log)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "rank"), CASES, ids=IDS)
def test_a_restart_ends_with_the_same_weights(
    tmp_path: Path, number: int, rank: int, uninterrupted: dict[str, torch.Tensor]
) -> None:
    run = Run(tmp_path, restarts=1)
    run.signal_rank(rank, number, when=r"\[3\]\[15/30\]")
    assert run.join(200) == 0, run.log
    assert "resumed epoch: 2" in run.log
    found = weights(tmp_path)
    assert found.keys() == uninterrupted.keys()
    for name, value in found.items():
        assert torch.equal(value, uninterrupted[name]), name
