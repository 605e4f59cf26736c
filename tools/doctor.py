#!/usr/bin/env python
"""Examines the installation, the machine and, if one is given, a config's data.

Exit code 0: nothing is wrong, or only what a warning says; 1: something is.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).parents[1] / "saim_mm"


def load_verb() -> ModuleType:
    """The verb ``doctor`` without the package itself, which may not import."""
    stand_in = ModuleType("_saim_mm")  # runs no __init__.py
    stand_in.__path__ = [str(PACKAGE)]
    sys.modules[stand_in.__name__] = stand_in
    return importlib.import_module(f"{stand_in.__name__}.cli.doctor")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", help="also examine this config's data")
    parser.add_argument(
        "--gpus", type=int, default=1, help="processes that will train the config"
    )
    parser.add_argument(
        "--samples", type=int, default=64, help="samples of its data to load"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs"))
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="override settings of the config",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if min(args.gpus, args.samples) < 1:
        parser.error("--gpus and --samples must be positive")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Prints every finding; returns the exit code."""
    options = vars(parse_args(argv))
    return load_verb().run(processes=options.pop("gpus"), **options)


if __name__ == "__main__":
    sys.exit(main())
