"""What a measured figure means nothing without: commit, hardware, versions, load."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch


def environment(packages: Sequence[str]) -> dict[str, Any]:
    """Describes this process, its machine and packages by import name, for JSON."""
    cuda = torch.cuda.is_available()
    names = packages_distributions()
    versions = dict.fromkeys(packages, "not installed")  # one may only lie on the path
    for part in versions.keys() & names:
        versions[part] = f"{names[part][0]} {version(names[part][0])}"
    return dict(
        command=_command(),
        commit=_git("rev-parse", "HEAD") or "unknown",
        # Of the code: a series of records must not make its later ones look doubtful.
        uncommitted_changes=bool(
            _git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/*.json")
        ),
        hardware=torch.cuda.get_device_name() if cuda else cpu_name(),
        threads=torch.get_num_threads(),
        versions={"python": platform.python_version(), **versions},
        load_average=[round(load, 2) for load in os.getloadavg()],
    )


def cpu_name() -> str:
    """The processors, by number and kind."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = {line.split(":")[1].strip() for line in lines if "model name" in line}
    kinds = ", ".join(sorted(names)) or platform.machine()
    return f"{os.cpu_count()} CPUs, {kinds}"


def _command() -> str:
    """The command line; ``python -m PACKAGE`` names no folder of the machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else None
    called = ["-m", module] if module else sys.argv[:1]
    return shlex.join(["python", *called, *sys.argv[1:]])


def _git(*arguments: str) -> str:
    """What git prints in this repository; empty where there is none."""
    here = Path(__file__)
    options: Any = dict(cwd=here.parent, capture_output=True, text=True, check=True)
    try:
        # An installed package may lie in the folder of somebody else's repository.
        subprocess.run(["git", "ls-files", "--error-unmatch", here.name], **options)
        return subprocess.run(["git", *arguments], **options).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
