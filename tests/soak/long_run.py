#!/usr/bin/env python
"""Trains for 20,000 iterations and records whether memory grows or speed falls.

A tiny SAIM on tiny JPEG files, with data workers, checkpoints and all hooks of the
default runtime, so that a leak or a slowdown per iteration is not hidden behind large
tensors. A machine itself is faster or slower from minute to minute, by more than the
mark; so at its end the old run is timed against a fresh one, both in turn. Takes about
five minutes on two CPU cores; Linux only. Exit code 1 if a mark is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from saim_mm import launch
from saim_mm.utils.environment import environment

CONFIG = Path(__file__).parents[2] / "configs" / "saim" / "saim_debug.py"
#: Largest growth of resident memory, and largest loss of speed, in per cent.
GROWTH_MARK, DRIFT_MARK = 2.0, 3.0
#: Times at which the run is looked at.
POINTS = 100
#: How often the old run and a fresh one take turns, a point's distance each.
TURNS = 40
PACKAGES = ("torch", "mmengine", "mmcv", "mmpretrain", "numpy", "PIL")


class Point(NamedTuple):
    """A look at a run: memory in MiB, and time since some moment in seconds."""

    iteration: int
    seconds: float
    main_cpu_seconds: float
    workers_cpu_seconds: float
    main_mib: float
    workers_mib: float
    workers: int

    @property
    def cpu_seconds(self) -> float:
        """Of all processes."""
        return self.main_cpu_seconds + self.workers_cpu_seconds


class Stretch(NamedTuple):
    """What an iteration took between two points, in milliseconds."""

    wall: float
    cpu: float


class Recorder(Hook):
    """Sends a look at this process and its data workers every few iterations.

    Args:
        interval: Iterations between two looks.
        alone: Iterations of which none waits. Later ones wait at each look until they
            are told to go on, and then another look is sent.
        connection: Where the looks go.
    """

    # After all others, so that their memory and time are in.
    priority = "LOWEST"

    def __init__(self, interval: int, alone: int, connection: Connection) -> None:
        self.interval = interval
        self.alone = alone
        self.connection = connection

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Sends a point if it is time, and waits if it is another run's turn."""
        done = runner.iter + 1
        if not self.every_n_train_iters(runner, self.interval):
            return
        self.connection.send(look(done))
        if done >= self.alone:
            self.connection.recv()
            self.connection.send(look(done))


class TrainingRun:
    """A training in a process of its own, which the caller can let go on in steps.

    Args:
        cfg: Its config.
        interval: Iterations between two points.
        alone: Iterations that it makes at once; a multiple of ``interval``.
    """

    def __init__(self, cfg: Config, interval: int, alone: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=train, args=(cfg.to_dict(), interval, alone, theirs)
        )
        self._process.start()
        theirs.close()  # so that its end is noticed here
        self._points = alone // interval

    def alone(self) -> list[Point]:
        """Waits until it made the iterations that it makes at once."""
        return [self._connection.recv() for _ in range(self._points)]

    def turn(self) -> Stretch:
        """Lets it go on to the next point."""
        self._connection.send("go on")
        start, end = self._connection.recv(), self._connection.recv()
        return stretch(start, end)

    def stop(self) -> None:
        """Ends it, wherever it is, and its workers."""
        self._connection.close()
        self._process.join()


def train(
    cfg: dict[str, Any], interval: int, alone: int, connection: Connection
) -> None:
    """Trains until nobody listens any more."""
    torch.set_num_threads(1)
    runner = Runner.from_cfg(Config(cfg))
    runner.register_hook(Recorder(interval, alone, connection))
    with contextlib.suppress(EOFError, ConnectionError):
        runner.train()


def look(iteration: int) -> Point:
    """Reads the clocks and the memory of this process and its children."""
    workers = [child.pid for child in multiprocessing.active_children() if child.pid]
    return Point(
        iteration,
        time.perf_counter(),
        time.process_time(),
        sum(cpu_seconds(worker) for worker in workers),
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


def stretch(start: Point, end: Point) -> Stretch:
    """Between two points of a run."""
    scale = 1e3 / (end.iteration - start.iteration)
    return Stretch(
        scale * (end.seconds - start.seconds),
        scale * (end.cpu_seconds - start.cpu_seconds),
    )


def growth(points: Sequence[Point]) -> dict[str, float]:
    """Compares the memory in the last tenth of a run with that in the first.

    Medians, so that a checkpoint at one point does not count.

    Args:
        points: Those after the warm-up, 20 at least.

    Returns:
        MiB at first, and what came to it in MiB and in per cent, of the main process
        and of the workers together.
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
    return {name: round(value, 3) for name, value in found.items()}


def drift(turns: Sequence[tuple[Stretch, Stretch]]) -> dict[str, float]:
    """Compares an old run with a fresh one that stepped in turn with it.

    Args:
        turns: Of each turn, the old run's stretch and the fresh one's.

    Returns:
        Milliseconds of an iteration of either, by the clock and in CPU time of all
        processes, and by how many per cent the old one's are more: medians.
    """
    found: dict[str, float] = {}
    for clock in Stretch._fields:
        times = [(getattr(old, clock), getattr(fresh, clock)) for old, fresh in turns]
        for name, of_all in zip(
            ("old", "fresh"), zip(*times, strict=True), strict=True
        ):
            found[f"{name}_{clock}_ms_per_iteration"] = statistics.median(of_all)
        found[f"{clock}_drift_percent"] = statistics.median(
            # The system counts CPU time in ticks; a short stretch may have none.
            _per_cent(fresh, old) if fresh else math.nan
            for old, fresh in times
        )
    return {name: round(value, 3) for name, value in found.items()}


def _per_cent(before: float, after: float) -> float:
    return 100 * (after / before - 1)


def judge(found: dict[str, float]) -> dict[str, bool]:
    """Which marks are met."""
    grown = [found.get(f"{name}_growth_percent", 0.0) for name in ("main", "workers")]
    slower = f"an iteration takes at most {DRIFT_MARK:g} % longer than a fresh run's"
    return {
        f"memory grows by at most {GROWTH_MARK:g} %": max(grown) <= GROWTH_MARK,
        f"{slower}, by the clock": found["wall_drift_percent"] <= DRIFT_MARK,
        f"{slower}, in CPU time": found["cpu_drift_percent"] <= DRIFT_MARK,
    }


def make_images(folder: Path, count: int) -> None:
    """Writes JPEG files of noise, 48 pixels wide and high."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 48)).save(folder / f"{i}.jpg")


def load_config(args: argparse.Namespace, folder: Path, name: str) -> Config:
    """The debug config, on files and with workers, for more iterations than needed."""
    cfg = Config.fromfile(CONFIG)
    cfg.launcher, cfg.work_dir = "none", str(folder / name)
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
    cfg.train_cfg.max_epochs = 2 * -(-args.iterations // per_epoch)
    cfg.default_hooks.logger.interval = 100
    cfg.default_hooks.checkpoint.interval = max(1, cfg.train_cfg.max_epochs // 40)
    cfg.log_level = "WARNING"
    launch.fit_to_machine(cfg)
    return cfg


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the record holds beside the environment."""
    (folder / "images").mkdir()
    make_images(folder / "images", args.images)
    interval = args.iterations // POINTS
    runs = []
    try:
        runs.append(
            TrainingRun(load_config(args, folder, "old"), interval, args.iterations)
        )
        points = runs[0].alone()
        # The first of its points that is as far as the warm-up, or further.
        warm = -(-args.warm_up // interval) * interval
        runs.append(TrainingRun(load_config(args, folder, "fresh"), interval, warm))
        runs[1].alone()
        turns = [(runs[0].turn(), runs[1].turn()) for _ in range(TURNS)]
    finally:
        for run in runs:
            run.stop()
    found = {
        **growth([p for p in points if p.iteration > args.warm_up]),
        **drift(turns),
    }
    return dict(
        result=found,
        marks=judge(found),
        points=[_rounded(point) for point in points],
        turns=[dict(old=_rounded(old), fresh=_rounded(fresh)) for old, fresh in turns],
    )


def _rounded(figures: Point | Stretch) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures._asdict().items()}


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
    record = environment(PACKAGES)
    settings = dict(vars(args))
    settings.pop("out")
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(args, Path(scratch))
    record.update(
        settings=settings,
        load_average_at_end=[round(load, 2) for load in os.getloadavg()],
        **measured,
    )
    for name, value in record["result"].items():
        print(f"{name:28s}{value:12.3f}")
    for name, met in record["marks"].items():
        print(f"{'met' if met else 'MISSED':7s}{name}")
    if args.out:
        args.out.write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(record["marks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
