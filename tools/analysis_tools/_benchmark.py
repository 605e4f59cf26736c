"""What the benchmarks share: the machine, clocks, memory and what peak is possible."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.profiler import ProfilerActivity, profile

#: A point in time: of the device's own clock with CUDA, else of the host's.
Mark: TypeAlias = "torch.cuda.Event | float"

# The profiler would report on the CPU that it finds no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "5")


class Clock:
    """Marks points of a step without waiting for the device.

    Args:
        device: Where the step runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def mark(self) -> Mark:
        """This point: with CUDA, when the device has done all it was told before."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Waits until all marks are reached."""
        if self._cuda:
            torch.cuda.synchronize()

    def seconds(self, start: Mark, end: Mark) -> float:
        """Between two marks that are reached."""
        if isinstance(start, float):
            return end - start
        return start.elapsed_time(end) / 1e3


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of one large matrix product, the best of some."""
    size, repeats = (8192, 20) if device.type == "cuda" else (2048, 5)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    clock, marks = Clock(device), []
    for _ in range(repeats + 1):
        marks.append(clock.mark())
        torch.mm(a, b)
    marks.append(clock.mark())
    clock.wait()
    # The first product is a warm-up.
    spans = zip(marks[1:-1], marks[2:], strict=True)
    return 2 * size**3 / min(clock.seconds(*span) for span in spans) / 1e12


def resident_bytes(model: nn.Module, optim_wrapper: OptimWrapper) -> int:
    """Bytes that stay between two steps: weights, buffers and the optimiser's state."""
    states = optim_wrapper.optimizer.state.values()
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [x for state in states for x in state.values() if torch.is_tensor(x)]
    return sum(x.nbytes for x in tensors)


def most_allocated(device: torch.device, step: Callable[[], Any]) -> int:
    """Bytes that tensors take during a step, at most, beyond what there was before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    # The resident set of a process would not do: it never shrinks.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    most = allocated = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        allocated += change
        most = max(most, allocated)
    return most


def circumstances(packages: Sequence[str]) -> dict[str, Any]:
    """What a figure means nothing without.

    Args:
        packages: Import names of the packages whose versions matter.
    """
    names = packages_distributions()
    cuda = torch.cuda.is_available()
    return dict(
        command=shlex.join(["python", *sys.argv]),
        commit=_git("rev-parse", "HEAD") or "unknown",
        # Of the code: a series of records must not make its later ones look doubtful.
        uncommitted_changes=bool(
            _git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks")
        ),
        hardware=torch.cuda.get_device_name() if cuda else cpu_name(),
        threads=torch.get_num_threads(),
        versions={
            "python": platform.python_version(),
            **{
                part: f"{names[part][0]} {version(names[part][0])}" for part in packages
            },
        },
        load_average=[round(load, 2) for load in os.getloadavg()],
    )


def cpu_name() -> str:
    """The processors, by number and kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = {line.split(":")[1].strip() for line in lines if "model name" in line}
    kinds = ", ".join(sorted(names)) or platform.machine()
    return f"{os.cpu_count()} CPUs, {kinds}"


def _git(*arguments: str) -> str:
    """What git prints in this repository; empty where there is none."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return ""
    return done.stdout.strip()
