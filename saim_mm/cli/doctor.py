"""Examines the installation, the machine and, if one is given, a config's data.

Example:
  saim-mm doctor saim_mm::saim/saim_vit-b_800e_in1k.py --processes 8
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._doctor import doctor
from ._arguments import add_shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of :func:`saim_mm.api.doctor`."""
    add = parser.add_argument
    add("config", nargs="?", help="also examine this config's data")
    add("--processes", type=int, default=1, help="GPUs that will train the config")
    add("--samples", type=int, default=64, help="samples of its data to load")
    add("--work-dir", type=Path, default="work_dirs", help="of its checkpoints")
    add_shared(parser, "--cfg-options")


def run(**options: Any) -> int:
    """Prints every finding; returns the exit code."""
    worst = 0
    for finding in doctor(**options):
        print(f"[{finding.state:^7}] {finding.text}")
        if finding.remedy:
            print(f"          -> {finding.remedy}")
        worst |= finding.state == "error"
    print("Something is wrong; see the errors above." if worst else "Ready.")
    return int(worst)
