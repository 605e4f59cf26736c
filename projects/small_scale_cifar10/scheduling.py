"""Which run comes when, and several runs side by side as processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from .images import DataSplit, load_split
from .judging import judge
from .results import Records
from .scale import Scale
from .systems import rows_of
from .tuning import TUNING_SEED, Run, choose, num_trials

#: The data set, read once by each process.
_loaded: dict[RunContext, DataSplit] = {}


@dataclass(frozen=True)
class RunContext:
    """Where a run reads, computes and writes.

    Attributes:
        data: Folder with ``train/`` and ``test/``.
        device: Name of the device.
        out: Folder of the records.
    """

    data: Path
    device: str
    out: Path


def plan_runs(names: Sequence[str], seeds: int | None, scale: Scale) -> list[Run]:
    """All runs of the experiments of these names, in the order in which they are begun.

    The smallest budget comes first, and a first seed of every experiment before any
    second one. What a run builds on is tuned right before the first that needs it.
    Without a number of ``seeds`` each experiment has its own.

    Raises:
        ValueError: If a name is none of the scale's.
    """
    rows = rows_of(scale)
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise ValueError(f"{unknown} are no rows of {scale.name}: {list(rows)}.")
    runs: dict[Run, None] = {}
    for budget in range(len(scale.budgets) or 1):
        counting = [
            Run(name, seed, None, budget)
            for name in names
            for seed in range(rows[name].seeds if seeds is None else seeds)
            if not budget or rows[name].task != "none"
        ]
        for run in sorted(counting, key=lambda run: run.seed):
            tuned = rows[rows[run.row].tuned_name]
            trials = range(num_trials(tuned, scale, budget))
            needed = (Run(tuned.name, TUNING_SEED, trial, budget) for trial in trials)
            runs.update(dict.fromkeys((*needed, run)))
    return list(runs)


def unfinished(runs: Sequence[Run], records: Records) -> list[Run]:
    """Those that are to be done, in their order."""
    done, scale = records.read(), records.scale
    return [run for run in runs if not records.has(run, choose(run, scale, done))]


def run_one(run: Run, scale: Scale, context: RunContext) -> float:
    """Does one run and keeps its record; returns its seconds."""
    torch.set_num_threads(1)  # matrices are small, and runs stand side by side
    # Every optimiser logs its groups of parameters.
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    if context not in _loaded:
        counts = scale.train_images, scale.held_out, scale.test_images
        split = load_split(context.data, scale.image_size, *counts)
        _loaded[context] = split.to(torch.device(context.device))
    records = Records(context.out, scale)
    choice = choose(run, scale, records.read())
    assert choice is not None, "begun before what it builds on was finished"
    experiment = rows_of(scale)[run.row].changed(choice.changes)
    budget = scale.budgets[run.budget] if scale.budgets else None
    rate, tuning, split = choice.rate, run.tuning, _loaded[context]
    figures = judge(experiment, scale, run.seed, rate, budget, split, tuning)
    on_gpu = context.device.startswith("cuda")
    device = torch.cuda.get_device_name() if on_gpu else "CPU"
    changes = dict(changes=choice.changes) if choice.changes else {}
    records.write(run, {"rate": rate, **changes, **figures, "device": device})
    return figures["seconds"]


def run_all(
    todo: Sequence[Run], scale: Scale, context: RunContext, jobs: int, minutes: float
) -> int:
    """Does runs side by side, each as soon as what it builds on is finished.

    Args:
        todo: Runs, those to be begun first in front; what is finished is left out.
        scale: Their sizes and budget.
        context: Where they read, compute and write.
        jobs: How many stand side by side.
        minutes: None is begun after these.

    Returns:
        How many failed, or could not be begun for others that did.
    """
    records, deadline = Records(context.out, scale), time.monotonic() + 60 * minutes
    begun, running, failed = set[Run](), dict[Future[float], Run](), 0
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=_end_with_parent) as pool:
        while True:
            # Anew each time: a trial may undo the choice that a record was made with.
            waiting = unfinished([run for run in todo if run not in begun], records)
            late = time.monotonic() >= deadline
            done = records.read()
            ready = (run for run in waiting if choose(run, scale, done) is not None)
            run = next(ready, None) if len(running) < jobs and not late else None
            if run is not None:
                begun.add(run)
                running[pool.submit(run_one, run, scale, context)] = run
                continue
            if not running:
                lack = "lack a rate, as tuning failed."
                if waiting:
                    print(len(waiting), "runs", "have no time left." if late else lack)
                return failed + (0 if late else len(waiting))
            for task in wait(running, return_when=FIRST_COMPLETED).done:
                run, error = running.pop(task), task.exception()
                failed += error is not None
                outcome = f"failed: {error!r}" if error else f"{task.result():.0f} s"
                print(f"{records.name(run)}: {outcome}", flush=True)


def _end_with_parent() -> None:
    """Keeps no worker computing for a command that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
