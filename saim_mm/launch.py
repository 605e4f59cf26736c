"""From a config to a run on this machine; ``tools/train.py`` and ``test.py`` share it.

A config describes the experiment; the machine it lands on may have no GPU, or another
number of them. This file bends a config to the machine and says what follows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.dist import init_dist
from mmengine.hub import get_config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .utils.command_line import counted
from .utils.config_file import read_config_file
from .utils.loader_options import drop_worker_options
from .weights.resume import resume_from_newest
from .weights.safe_loader import install_safe_loader
from .weights.whole_model import forget_pretrained

#: Options of ``AmpOptimWrapper`` that ``OptimWrapper`` does not know.
_AMP_OPTIONS = ("loss_scale", "dtype", "use_fsdp")
_DATA_PARALLEL = "MMDistributedDataParallel"


@dataclass(frozen=True)
class EffectiveBatch:
    """How many images one optimiser step sees, and at what rate it learns.

    Attributes:
        processes: Number of processes (GPUs).
        per_process: Images that a process loads per iteration.
        accumulation: Iterations per optimiser step.
        lr: Peak learning rate.
        base: The batch that the config's rate was made for, if it says so.
    """

    processes: int
    per_process: int
    accumulation: int
    lr: float
    base: int | None

    @property
    def images(self) -> int:
        """Images per optimiser step."""
        return self.processes * self.per_process * self.accumulation

    def describe(self) -> str:
        """One line, and a second with the remedies if batch and rate do not fit."""
        text = (
            f"Effective batch: {counted(self.images, 'image')} = "
            f"{self.processes} process{'es' * (self.processes != 1)} x "
            f"{self.per_process} x {self.accumulation} accumulated; peak learning rate "
            f"{self.lr:.4g}."
        )
        if self.base is None or self.base == self.images:
            return text
        remedies = "pass --auto-scale-lr"
        counts, rest = divmod(self.base, self.processes * self.per_process)
        if counts and not rest:
            remedies += f", or --cfg-options optim_wrapper.accumulative_counts={counts}"
        return (
            f"{text}\nWARNING: this rate was made for a batch of {self.base}; "
            f"{remedies}."
        )


def world_size() -> int:
    """Number of processes of this run, before any of them is connected."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)


def effective_batch(cfg: Config, processes: int) -> EffectiveBatch:
    """Reads batch and rate off a config.

    Args:
        cfg: A training config.
        processes: Number of processes it will run in.

    Raises:
        ValueError: If the config has no training data or optimiser.
    """
    for name in ("train_dataloader", "optim_wrapper"):
        if not cfg.get(name):
            raise ValueError(f"{cfg.filename} cannot be trained: it has no {name}.")
    loader, wrapper = cfg.train_dataloader, cfg.optim_wrapper
    per_process = loader.get("batch_size")
    if per_process is None:
        per_process = loader.batch_sampler.batch_size
    return EffectiveBatch(
        processes=processes,
        per_process=per_process,
        accumulation=wrapper.get("accumulative_counts", 1),
        lr=wrapper.optimizer.lr,
        base=(cfg.get("auto_scale_lr") or {}).get("base_batch_size"),
    )


def scale_learning_rate(cfg: Config, processes: int) -> None:
    """Applies the linear rule lr = lr * batch / base in place, if the config asks.

    MMEngine's own scaling forgets accumulation, so it is switched off and done here.

    Raises:
        ValueError: If scaling is asked for and the config names no base batch.
    """
    rule = cfg.get("auto_scale_lr")
    if not rule or not rule.get("enable"):
        return
    batch = effective_batch(cfg, processes)
    if batch.base is None:
        raise ValueError(
            f"{cfg.filename} asks for a scaled learning rate but names no "
            "auto_scale_lr.base_batch_size that its rate was made for."
        )
    cfg.optim_wrapper.optimizer.lr = batch.lr * batch.images / batch.base
    cfg.auto_scale_lr = dict(base_batch_size=batch.images, enable=False)


def fit_to_machine(cfg: Config) -> list[str]:
    """Bends a config to the machine, in place.

    With CUDA, AdamW updates all weights in one kernel; without, what needs CUDA is
    replaced. Gradients of several processes are kept in the buffers that they are sent
    from. Settings of the config's own come first.

    Returns:
        What will differ from the config's words, a sentence each.
    """
    drop_worker_options(cfg._cfg_dict)
    cuda = torch.cuda.is_available()
    if world_size() > 1:
        _set_data_parallel(cfg, cuda)
    wrapper = cfg.get("optim_wrapper") or {}
    if cuda:
        optimizer = wrapper.get("optimizer") or {}
        if optimizer.get("type") == "AdamW" and "foreach" not in optimizer:
            optimizer.setdefault("fused", True)
        return []
    changes = []
    if wrapper_without_amp(wrapper):
        changes.append("No CUDA: training in float32 instead of mixed precision.")
    for part in ("train", "val", "test"):
        if cfg.get(f"{part}_dataloader"):
            cfg[f"{part}_dataloader"].pin_memory = False
    if world_size() > 1:
        changes.append("No CUDA: processes talk over gloo.")
    return changes


def wrapper_without_amp(wrapper: dict[str, Any]) -> bool:
    """Takes mixed precision out of an optimiser wrapper's config, in place.

    Returns:
        Whether it was there.
    """
    if wrapper.get("type") != "AmpOptimWrapper":
        return False
    wrapper["type"] = "OptimWrapper"
    for option in _AMP_OPTIONS:
        wrapper.pop(option, None)
    return True


def _set_data_parallel(cfg: Config, cuda: bool) -> None:
    """What MMEngine sets by itself where a config has no wrapper, and bucket views."""
    options = cfg.get("model_wrapper_cfg") or {}
    if options.get("type", _DATA_PARALLEL) != _DATA_PARALLEL:
        return  # another kind, such as FSDP
    defaults = dict(
        type=_DATA_PARALLEL,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
        gradient_as_bucket_view=True,
    )
    if not cuda:
        defaults["device_ids"] = None  # Runner would hand it the index of a GPU
    cfg.model_wrapper_cfg = {**defaults, **options}


def make_runner(cfg: Config, launcher: str = "none", newest: bool = False) -> Runner:
    """Builds the training run of a config, bent to this machine, ready to train.

    Args:
        cfg: A training config with a ``work_dir``. Changed.
        launcher: As for :func:`connect`.
        newest: Go on from the newest good checkpoint in the work dir, if there is one.

    Raises:
        ValueError: If the config cannot be trained, or has no training image.
        CheckpointError: If there are checkpoints to go on from, and none is good.
    """
    processes = world_size() if launcher != "none" else 1
    scale_learning_rate(cfg, processes)
    changes = fit_to_machine(cfg)
    batch = effective_batch(cfg, processes)
    connect(launcher, cfg.get("env_cfg", {}).get("dist_cfg"))
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    for line in [*changes, batch.describe()]:
        runner.logger.info(line)
    if newest:
        resume_from_newest(runner)
    if runner._resume and runner._load_from:
        forget_pretrained(runner.model)
    check_training_data(runner)
    return runner


def check_training_data(runner: Runner) -> None:
    """Stops a run that has nothing to train on; some samplers would wait for ever.

    Raises:
        ValueError: If the dataset is empty.
    """
    dataset = runner.train_loop.dataloader.dataset
    if len(dataset) == 0:
        raise ValueError(
            f"{type(dataset).__name__} holds no training image; check data_root, "
            "data_prefix and ann_file of train_dataloader.dataset."
        )


def connect(launcher: str, dist_cfg: dict[str, Any] | None = None) -> None:
    """Joins the processes of a run, before Runner would.

    Runner can only do it on accelerators; with CUDA it is left to it.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        dist_cfg: The config's ``env_cfg.dist_cfg``; its ``timeout`` is kept.
    """
    if launcher == "none" or torch.cuda.is_available():
        return
    if launcher == "slurm":
        _slurm_to_torch_environment()
    elif launcher != "pytorch":
        init_dist(launcher, backend="gloo")
        return
    options = {k: v for k, v in (dist_cfg or {}).items() if k == "timeout"}
    torch.distributed.init_process_group("gloo", **options)


def _slurm_to_torch_environment() -> None:
    """Sets what torch.distributed reads from what Slurm tells each task."""
    environment = os.environ
    if "MASTER_ADDR" not in environment:
        hosts = ["scontrol", "show", "hostnames", environment["SLURM_NODELIST"]]
        first = subprocess.run(hosts, capture_output=True, text=True, check=True)
        environment["MASTER_ADDR"] = first.stdout.split()[0]
    environment.setdefault("MASTER_PORT", "29500")
    environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]


def add_cfg_options(parser: argparse.ArgumentParser, *aliases: str) -> None:
    """Adds ``--cfg-options KEY=VALUE ...``, empty by default.

    Args:
        parser: Of a tool that reads a config.
        aliases: Other names of the option.
    """
    parser.add_argument(
        *aliases,
        "--cfg-options",
        dest="cfg_options",
        nargs="+",
        action=DictAction,
        default={},
        metavar="KEY=VALUE",
        help="override settings of the config",
    )


def parse_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Reads a command line, with the options that training and testing share.

    The parser has an argument ``config``, and what else the tool needs.
    """
    parser.add_argument("--work-dir", help="where logs and results go")
    add_cfg_options(parser)
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none"
    )
    # torch.distributed.launch of old passes it; torchrun sets the variable.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args(argv)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def load_config(config: str | Path) -> Config:
    """A config from a file, or of a package: ``saim_mm::saim/saim_debug.py``."""
    package, separator, inner = str(config).partition("::")
    if not separator:
        return read_config_file(config)
    if "/" not in inner:
        raise ValueError(
            f"{config}: names no folder of {package}'s configs; write it as in "
            "saim_mm::saim/saim_debug.py."
        )
    return get_config(config)


def read_config(args: argparse.Namespace) -> Config:
    """The config, with what the shared options say; ``work_dirs/NAME`` by default.

    From here on, checkpoints load without running code.
    """
    install_safe_loader()
    cfg = load_config(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    default = str(Path("work_dirs") / Path(args.config).stem)
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or default
    return cfg
