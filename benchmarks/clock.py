"""What the benchmarks share: clocks, memory and what peak is possible."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from saim_mm.utils.progress_line import ProgressLine

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


def shown_steps(count: int, what: str = "step") -> Iterator[int]:
    """Counts from 0, and shows how far that is, on the error output of one process."""
    line = ProgressLine(sys.stderr)
    first = int(os.environ.get("RANK", 0)) == 0
    for number in range(count):
        if first and line.due():
            line.show(f"{what} {number + 1}/{count}")
        yield number
    line.close()


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of one large matrix product, the best of some."""
    cuda = device.type == "cuda"
    largest, repeats = (8192, 20) if cuda else (2048, 5)
    # Always as many: what is drawn later must not depend on the machine's speed.
    a, b = torch.randn(2, largest, largest, device=device, dtype=dtype)
    size = largest if cuda else 128
    while True:
        seconds = _fastest_product(a[:size, :size], b[:size, :size], repeats)
        # Grown until it takes long enough: the largest product takes minutes on CPUs
        # that have no kernels for the type.
        if size == largest or seconds > 0.1:
            return 2 * size**3 / seconds / 1e12
        size *= 2


def _fastest_product(a: Tensor, b: Tensor, repeats: int) -> float:
    """Seconds, after a product that warms up."""
    clock, marks = Clock(a.device), []
    for _ in range(repeats + 1):
        marks.append(clock.mark())
        torch.mm(a, b)
    marks.append(clock.mark())
    clock.wait()
    spans = zip(marks[1:-1], marks[2:], strict=True)
    return min(clock.seconds(*span) for span in spans)


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


def process_peak_mib(device: torch.device) -> float:
    """The most of this process so far: on the GPU by tensors, else all of it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
