"""Which run comes when, and several runs side by side as processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from .images import DataSplit, load_split
from .judging import judge
from .results import Records, Run
from .rows import ROWS, Scale

#: The seed whose runs choose the learning rates.
TUNING_SEED = 0
#: The data set, read once by each process.
_loaded: dict[Place, DataSplit] = {}


@dataclass(frozen=True)
class Place:
    """Where a run reads, computes and writes.

    Attributes:
        data: Folder with ``train/`` and ``test/``.
        device: Name of the device.
        out: Folder of the records.
    """

    data: Path
    device: str
    out: Path


def plan(rows: Sequence[str], seeds: int | None, scale: Scale) -> list[Run]:
    """All runs, in the order in which they are begun.

    A first seed of every row comes before any second one, and right before the first
    row that needs it the tuning of a learning rate.

    Args:
        rows: Names of the rows.
        seeds: Number of seeds; by default each row's own.
        scale: Has the learning rates to try.
    """
    counting = [
        Run(ROWS[name], seed)
        for name in rows
        for seed in range(ROWS[name].seeds if seeds is None else seeds)
    ]
    runs: dict[str, Run] = {}
    for run in sorted(counting, key=lambda run: run.seed):
        tuned = ROWS[run.row.tuned_row]
        rates = () if tuned.task == "none" else scale.rates
        for needed in (*(Run(tuned, TUNING_SEED, rate) for rate in rates), run):
            runs.setdefault(needed.name, needed)
    return list(runs.values())


def run_one(run: Run, scale: Scale, place: Place) -> float:
    """Does one run and keeps its record; returns its seconds."""
    torch.set_num_threads(1)  # matrices are small, and runs stand side by side
    if place not in _loaded:
        split = load_split(
            place.data,
            scale.image_size,
            scale.train_images,
            scale.held_out,
            scale.test_images,
        )
        _loaded[place] = split.to(torch.device(place.device))
    records = Records(place.out, scale)
    rate = records.best_rate(run.row) if run.rate is None else run.rate
    tuning = run.rate is not None
    figures = judge(run.row, scale, run.seed, rate, _loaded[place], tuning)
    on_gpu = place.device.startswith("cuda")
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    records.write(run, {"rate": rate, **figures, "device": device})
    return figures["seconds"]


def run_all(
    todo: Sequence[Run], scale: Scale, place: Place, jobs: int, minutes: float
) -> int:
    """Does runs side by side, each as soon as what it builds on is finished.

    Args:
        todo: Runs, those to be begun first in front.
        scale: Their sizes and budget.
        place: Where they read, compute and write.
        jobs: How many stand side by side.
        minutes: None is begun after these.

    Returns:
        How many failed, or could not be begun for others that did.
    """
    records, deadline = Records(place.out, scale), time.monotonic() + 60 * minutes
    waiting, running, failed = list(todo), dict[Future[float], Run](), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_end_with_parent) as pool:
        while waiting or running:
            if waiting and time.monotonic() >= deadline:
                print(f"No time for {len(waiting)} runs; the same command goes on.")
                waiting = []
            ready = (run for run in waiting if records.is_ready(run))
            run = next(ready, None) if len(running) < jobs else None
            if run is not None:
                waiting.remove(run)
                running[pool.submit(run_one, run, scale, place)] = run
                continue
            if not running:
                print(f"{len(waiting)} runs lack a learning rate, as tuning failed.")
                return failed + len(waiting)
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                run, error = running.pop(task), task.exception()
                failed += error is not None
                outcome = f"failed: {error!r}" if error else f"{task.result():.0f} s"
                print(f"{run.name}: {outcome}", flush=True)
    return failed


def _end_with_parent() -> None:
    """Keeps no worker computing for a command that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
