"""The launchers, really launched."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEBUG = "configs/saim/saim_debug.py"
SHORT = [
    "--cfg-options",
    "train_dataloader.dataset.num_images=128",
    "train_dataloader.batch_size=32",
]


def launch(
    *command: str, env: dict[str, str] | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("NNODES", "PORT")}
    environment.update(PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="", **(env or {}))
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip


def free_port() -> str:
    """A port that nobody listens on, at least at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def losses(text: str) -> list[str]:
    return re.findall(r"loss: (\d+\.\d+)", text)


@pytest.mark.slow
def test_more_gpus_than_the_node_has_shows_how_to_start_nodes() -> None:
    config = "configs/saim/saim_vit-b_800e_in1k.py"
    run = launch("tools/dist_train.sh", config, "32", "--amp")
    assert run.returncode == 1
    lines = [line for line in run.stderr.splitlines() if line.startswith("NNODES=")]
    assert len(lines) == 4
    for rank, line in enumerate(lines):
        assert line.startswith(f"NNODES=4 NODE_RANK={rank} MASTER_ADDR=<")
        assert line.endswith(f"tools/dist_train.sh {config} 8 --amp")


@pytest.mark.parametrize("script", ["dist_train.sh", "dist_test.sh"])
def test_missing_arguments_show_usage(script: str) -> None:
    run = launch(f"tools/{script}", "config.py")
    assert run.returncode == 2
    assert "usage: " in run.stderr
    assert "GPUS" in run.stderr


def test_gpus_must_be_a_number() -> None:
    run = launch("tools/dist_train.sh", DEBUG, "many")
    assert run.returncode == 2
    assert "'many'" in run.stderr


@pytest.mark.slow
def test_train_resume_and_effective_batch(tmp_path: Path) -> None:
    command = [sys.executable, "tools/train.py", DEBUG, "--work-dir", str(tmp_path)]
    first = launch(*command, *SHORT, "optim_wrapper.accumulative_counts=2")
    assert first.returncode == 0, first.stderr
    log = first.stdout + first.stderr
    assert "Effective batch: 64 images = 1 process x 32 x 2 accumulated" in log
    assert "WARNING: this rate was made for a batch of 32" in log
    assert (tmp_path / "epoch_1.pth").exists()

    more = launch(*command, "--resume", *SHORT, "train_cfg.max_epochs=2")
    assert more.returncode == 0, more.stderr
    assert "resumed epoch: 1, iter: 4" in more.stdout + more.stderr
    assert (tmp_path / "epoch_2.pth").exists()


@pytest.mark.slow
def test_two_processes_on_gloo(tmp_path: Path) -> None:
    run = launch("tools/dist_train.sh", DEBUG, "2", "--work-dir", str(tmp_path), *SHORT)
    assert run.returncode == 0, run.stderr
    log = run.stdout + run.stderr
    assert "Effective batch: 64 images = 2 processes x 32 x 1 accumulated" in log
    assert len(losses(log)) == 2  # 128 images / 64
    assert (tmp_path / "epoch_1.pth").exists()


@pytest.mark.slow
def test_two_nodes_find_each_other(tmp_path: Path) -> None:
    """NNODES, NODE_RANK, MASTER_ADDR and PORT, as OpenMMLab users know them."""
    nodes, port = [], free_port()
    for rank in range(2):
        environment = dict(
            os.environ, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="", NNODES="2",
            NODE_RANK=str(rank), MASTER_ADDR="127.0.0.1", PORT=port,
        )  # fmt: skip
        command = ["tools/dist_train.sh", DEBUG, "1", "--work-dir", str(tmp_path)]
        nodes.append(
            subprocess.Popen(
                [*command, *SHORT],
                cwd=ROOT,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        )
    logs = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], logs
    assert "2 processes x 32" in logs[0]


@pytest.mark.slow
def test_slurm(tmp_path: Path) -> None:
    """A stand-in for srun starts the tasks with Slurm's variables."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    srun = bin_dir / "srun"
    srun.write_text(
        "#!/usr/bin/env bash\n"
        'echo "srun $*" >&2\n'
        "while [[ $1 == -* ]]; do [[ $1 == -p ]] && shift; shift; done\n"
        "export SLURM_NTASKS=2 SLURM_NODELIST=localhost "
        f"MASTER_PORT={free_port()}\n"
        'SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &\n'
        'SLURM_PROCID=0 SLURM_LOCALID=0 "$@"; status=$?\n'
        "wait; exit $status\n"
    )
    scontrol = bin_dir / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\n")
    for tool in (srun, scontrol):
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    run = launch(
        "tools/slurm_train.sh", "part", "job", DEBUG, str(tmp_path / "work"), *SHORT,
        env=dict(
            PATH=f"{bin_dir}:{os.environ['PATH']}", GPUS="2", GPUS_PER_NODE="0",
            SRUN_ARGS="--exclusive --mem=1G",
        ),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "--ntasks=2" in run.stderr
    assert "--signal=USR1@120 --exclusive --mem=1G" in run.stderr
    assert "--resume auto" in run.stderr
    assert "holds no checkpoint yet: starting anew" in run.stdout + run.stderr
    assert "2 processes x 32" in run.stdout + run.stderr
    assert (tmp_path / "work" / "epoch_1.pth").exists()


@pytest.mark.slow
def fake_slurm(folder: Path, srun: str) -> dict[str, str]:
    """Stand-ins for Slurm's commands, which tell what they were called with."""
    folder.mkdir()
    tools = dict(
        srun=srun,
        scontrol='echo "scontrol $*" >&2',
        # What follows --wrap is the job.
        sbatch='echo "sbatch $*" >&2; SLURM_JOB_ID=7 exec sh -c "${!#}"',
    )
    for name, body in tools.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return dict(PATH=f"{folder}:{os.environ['PATH']}", GPUS="16", BATCH="1")


@pytest.mark.parametrize(
    ("srun", "code", "requeued"),
    [
        ("exit 75", 75, True),
        ("exit 0", 0, False),
        ("exit 1", 1, False),
        # The batch shell is told; srun's code is that of a task which srun killed.
        ("trap 'exit 137' USR1; kill -USR1 $PPID; sleep 0.3; exit 1", 137, True),
        ("trap : USR1; kill -USR1 $PPID; sleep 0.3; exit 0", 0, False),
    ],
)
def test_slurm_requeues(tmp_path: Path, srun: str, code: int, requeued: bool) -> None:
    run = launch(
        "tools/slurm_train.sh", "part", "job", "a config.py", str(tmp_path / "work"),
        "--amp", env=fake_slurm(tmp_path / "bin", f'echo "srun $*" >&2; {srun}'),
    )  # fmt: skip
    assert run.returncode == code
    batch, step = run.stderr.splitlines()[:2]
    assert "--ntasks=16 --gres=gpu:8 --ntasks-per-node=8" in batch
    assert "--requeue --open-mode=append --signal=B:USR1@120" in batch
    assert "-p part --job-name=job --ntasks=16" in step
    work_dir = tmp_path / "work"
    end = f"a config.py --work-dir {work_dir} --resume auto --amp --launcher slurm"
    assert step.endswith(end)
    assert ("scontrol requeue 7" in run.stderr) == requeued


def test_slurm_resumes_as_told(tmp_path: Path) -> None:
    run = launch(
        "tools/slurm_train.sh", "part", "job", "config.py", str(tmp_path / "work"),
        "--resume", "epoch_3.pth",
        env=fake_slurm(tmp_path / "bin", 'echo "srun $*" >&2') | {"BATCH": ""},
    )  # fmt: skip
    assert run.returncode == 0
    assert "--resume epoch_3.pth" in run.stderr
    assert "auto" not in run.stderr


def test_test_tool_says_that_there_is_no_test_set() -> None:
    without = ["--cfg-options", "test_dataloader=None"]
    run = launch(sys.executable, "tools/test.py", DEBUG, "none.pth", *without)
    assert run.returncode != 0
    assert "has no test_dataloader" in run.stderr
