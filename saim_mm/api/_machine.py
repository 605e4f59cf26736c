"""What a run may use of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ..utils.command_line import counted

#: Where a container says how much memory it may use.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Machine:
    """Where a run is to train: on ``cpu`` or ``cuda``.

    ``memory`` are free bytes, of the GPU if there is one; ``cores`` the processors that
    this process may use; ``bf16`` is whether the GPU computes in bfloat16.
    """

    device: str
    memory: int
    cores: int
    bf16: bool = False


def this_machine(device: str | None = None) -> Machine:
    """Looks at this machine, and makes a GPU that is named the current one.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default a GPU if there is one.

    Raises:
        ValueError: If there is no such device, or MMEngine would take another.
    """
    cuda = torch.cuda.is_available()
    kind, _, index = (device or ("cuda" if cuda else "cpu")).partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ValueError(f"device={device!r}: give 'cpu', 'cuda' or 'cuda:1'.")
    if kind == "cpu" and cuda:  # MMEngine always takes it
        raise ValueError(
            "device='cpu', but there is a GPU, which MMEngine would use; hide it by "
            "CUDA_VISIBLE_DEVICES= in the environment."
        )
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if kind == "cpu":
        return Machine("cpu", _free_memory(), cores)
    count = torch.cuda.device_count() if cuda else 0
    if int(index or 0) >= count:
        found = counted(count, "CUDA device")
        raise ValueError(f"device={device!r}: this machine has {found}.")
    torch.cuda.set_device(int(index or torch.cuda.current_device()))
    # From Ampere on; older ones only imitate it.
    bf16 = torch.cuda.get_device_capability()[0] >= 8
    return Machine("cuda", torch.cuda.mem_get_info()[0], cores, bf16)


def _free_memory() -> int:
    """Bytes that are available; of a container, all that it may use at most."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = [pages]
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.is_file() else ():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for limit in filter(Path.is_file, map(Path, _LIMITS)):
        text = limit.read_text().strip()
        found += [int(text)] if text.isdecimal() else []
    return min(found)
