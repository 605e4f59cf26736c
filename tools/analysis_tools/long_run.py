#!/usr/bin/env python
"""Trains for 20,000 iterations and records whether memory grows or speed falls.

A tiny SAIM on tiny JPEG files, with data workers, checkpoints and all hooks of the
default runtime, so that a leak or a slowdown per iteration is not hidden behind large
tensors. Takes about ten minutes on two CPU cores; Linux only. Exit code 1 if a mark is
missed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _benchmark import circumstances
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from saim_mm import launch

CONFIG = Path(__file__).parents[2] / "configs" / "saim" / "saim_debug.py"
#: Largest growth of resident memory, and largest loss of speed, in per cent.
GROWTH_MARK, DRIFT_MARK = 2.0, 3.0
#: Times at which the run is looked at.
POINTS = 100
#: Iterations from one use of the yardstick to the next.
YARDSTICK_INTERVAL = 10
PACKAGES = ("torch", "mmengine", "mmcv", "mmpretrain", "numpy", "PIL")


class Point(NamedTuple):
    """A look at the run: memory in MiB, and time since some moment in seconds.

    The yardstick's time is no part of the others.
    """

    iteration: int
    seconds: float
    main_cpu_seconds: float
    workers_cpu_seconds: float
    yardstick_cpu_seconds: float
    main_mib: float
    workers_mib: float
    workers: int

    @property
    def cpu_seconds(self) -> float:
        """Of all processes."""
        return self.main_cpu_seconds + self.workers_cpu_seconds


class Yardstick:
    """The same work again and again, which tells how fast the machine is just then.

    Others on the machine take caches and clock rate from a process, so that even its
    CPU time per iteration goes up and down with them.
    """

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        layers = [nn.Linear(64, 64) for _ in range(8)]
        self._model = nn.Sequential(*layers)
        self._inputs = torch.randn(64, 64)

    def apply(self) -> None:
        """Does the work once, which takes about two milliseconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._model.zero_grad()
        self._model(self._inputs).sum().backward()
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu


class Recorder(Hook):
    """Looks at this process and its data workers every few iterations.

    Args:
        interval: Iterations between two looks.
    """

    # After all others, so that their memory and time are in.
    priority = "LOWEST"

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.points: list[Point] = []
        self.yardstick = Yardstick()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Applies the yardstick, and notes a point if it is time."""
        if self.every_n_train_iters(runner, YARDSTICK_INTERVAL):
            self.yardstick.apply()
        if self.every_n_train_iters(runner, self.interval):
            self.points.append(look(runner.iter + 1, self.yardstick))


def look(iteration: int, yardstick: Yardstick) -> Point:
    """Reads the clocks and the memory of this process and its children."""
    workers = [child.pid for child in multiprocessing.active_children() if child.pid]
    return Point(
        iteration,
        time.perf_counter() - yardstick.seconds,
        time.process_time() - yardstick.cpu_seconds,
        sum(cpu_seconds(worker) for worker in workers),
        yardstick.cpu_seconds,
        resident_mib(os.getpid()),
        sum(resident_mib(worker) for worker in workers),
        len(workers),
    )


def resident_mib(process: int) -> float:
    """Resident set of a process, with the pages that it shares."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_seconds(process: int) -> float:
    """CPU time of a process, of the user and of the kernel."""
    # The name, which may hold spaces, stands in brackets before the rest.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summarise(points: Sequence[Point]) -> dict[str, float]:
    """Compares the last tenth of a run with the first.

    Medians, so that a checkpoint or a busy machine at one point does not count.

    Args:
        points: Those after the warm-up, 20 at least.

    Returns:
        ``growth_percent`` and ``growth_mib`` of resident memory, of the main process
        and of the workers together; how much longer an iteration takes, by the clock
        (``wall_drift_percent``), in CPU time of all processes, and in CPU time in units
        of the yardstick's (``relative_cpu_drift_percent``); the first tenth's figures.
    """
    assert len(points) >= 20, "a tenth needs two points"
    tenth = len(points) // 10
    first, last = points[: tenth + 1], points[-tenth - 1 :]
    found: dict[str, float] = {}
    for name in ("main", "workers"):
        before, after = (
            statistics.median(getattr(p, f"{name}_mib") for p in part)
            for part in (first, last)
        )
        found[f"{name}_mib"] = before
        found[f"{name}_growth_mib"] = after - before
        if before:
            found[f"{name}_growth_percent"] = _per_cent(before, after)
    clocks = dict(wall="seconds", cpu="cpu_seconds", main_cpu="main_cpu_seconds")
    for name, clock in clocks.items():
        before, after = (
            statistics.median(_milliseconds(part, clock)) for part in (first, last)
        )
        found[f"{name}_ms_per_iteration"] = before
        found[f"{name}_drift_percent"] = _per_cent(before, after)
    before, after = (statistics.median(_in_yardsticks(part)) for part in (first, last))
    found["relative_cpu_drift_percent"] = _per_cent(before, after)
    return {name: round(value, 3) for name, value in found.items()}


def _in_yardsticks(points: Sequence[Point]) -> Iterable[float]:
    """CPU time per iteration over that of the yardstick, between each two points."""
    run, unit = (
        _milliseconds(points, clock)
        for clock in ("cpu_seconds", "yardstick_cpu_seconds")
    )
    # The system counts CPU time in ticks; a short stretch may have none.
    return [a / b if b else math.nan for a, b in zip(run, unit, strict=True)]


def _milliseconds(points: Sequence[Point], clock: str) -> Iterable[float]:
    """Per iteration, between each two points."""
    for a, b in zip(points, points[1:], strict=False):
        seconds = getattr(b, clock) - getattr(a, clock)
        yield 1e3 * seconds / (b.iteration - a.iteration)


def _per_cent(before: float, after: float) -> float:
    return 100 * (after / before - 1)


def judge(found: dict[str, float]) -> dict[str, bool]:
    """Which marks are met."""
    growth = [found.get(f"{name}_growth_percent", 0.0) for name in ("main", "workers")]
    return {
        f"memory grows by at most {GROWTH_MARK:g} %": max(growth) <= GROWTH_MARK,
        f"an iteration slows down by at most {DRIFT_MARK:g} %, by the clock": (
            found["wall_drift_percent"] <= DRIFT_MARK
        ),
        f"an iteration slows down by at most {DRIFT_MARK:g} %, in CPU time": (
            found["relative_cpu_drift_percent"] <= DRIFT_MARK
        ),
    }


def make_images(folder: Path, count: int) -> None:
    """Writes JPEG files of noise, 48 pixels wide and high."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 48)).save(folder / f"{i}.jpg")


def load_config(args: argparse.Namespace, folder: Path) -> Config:
    """The debug config, on files and with workers, for so many iterations."""
    cfg = Config.fromfile(CONFIG)
    cfg.launcher, cfg.work_dir = "none", str(folder / "run")
    # What does not depend on the model's size is what is looked for.
    cfg.model.backbone.arch.num_layers = cfg.model.neck.depth = 2
    per_epoch = args.images // args.batch
    crop = dict(
        type="LoadRandomResizedCrop",
        scale=32,
        crop_ratio_range=(0.67, 1.0),
        flip_prob=0.5,
    )
    cfg.train_dataloader.update(
        batch_size=args.batch,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    cfg.train_dataloader.dataset = dict(
        type="UnlabeledImages",
        data_root=str(folder / "images"),
        pipeline=[crop, dict(type="PackInputs")],
    )
    cfg.train_cfg.max_epochs = -(-args.iterations // per_epoch)
    cfg.default_hooks.logger.interval = 100
    cfg.default_hooks.checkpoint.interval = max(1, cfg.train_cfg.max_epochs // 40)
    cfg.log_level = "WARNING"
    launch.fit_to_machine(cfg)
    return cfg


def train(cfg: Config, iterations: int) -> list[Point]:
    """Trains, and says what was seen on the way."""
    runner = Runner.from_cfg(cfg)
    recorder = Recorder(max(1, iterations // POINTS))
    runner.register_hook(recorder)
    runner.train()
    return recorder.points


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--iterations", type=int, default=20_000)
    add("--warm-up", type=int, default=1_000, help="iterations that do not count")
    add("--workers", type=int, default=2, help="data workers")
    add("--batch", type=int, default=4, help="images per iteration")
    add("--images", type=int, default=256, help="number of images")
    add("--out", type=Path, metavar="JSON", help="write the record to this file")
    args = parser.parse_args()
    if not Path("/proc/self/statm").is_file():
        parser.error("memory is read from /proc, which only Linux has")
    if not 1 <= args.batch <= args.images:
        parser.error("--batch must be from 1 to --images")
    if args.iterations < 100 or not 0 <= args.warm_up <= args.iterations // 2:
        parser.error("--iterations must be 100 at least, --warm-up half of it at most")
    return args


def main() -> int:
    """Trains, prints and records."""
    args = parse_args()
    torch.set_num_threads(1)
    record = circumstances(PACKAGES)
    settings = dict(vars(args))
    settings.pop("out")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "images").mkdir()
        make_images(folder / "images", args.images)
        points = train(load_config(args, folder), args.iterations)
    found = summarise([p for p in points if p.iteration > args.warm_up])
    marks = judge(found)
    record.update(
        settings=settings,
        load_average_at_end=[round(load, 2) for load in os.getloadavg()],
        result=found,
        marks=marks,
        points=[
            {k: round(v, 3) for k, v in point._asdict().items()} for point in points
        ],
    )
    for name, value in found.items():
        print(f"{name:28s}{value:12.3f}")
    for name, met in marks.items():
        print(f"{'met' if met else 'MISSED':7s}{name}")
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(marks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
