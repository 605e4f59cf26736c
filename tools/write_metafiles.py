#!/usr/bin/env python
"""Writes configs/*/metafile.yml and model-index.yml, by which mim and others find us.

Every figure is read off the configs or configs/figures.yml; a test holds them equal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from saim_mm.evaluation.model_index import metafile

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
#: The first one defines the collection.
FOLDERS = (
    "saim",
    "ablations",
    "ade20k",
    "baselines",
    "coco",
    "demo_transfer",
    "small_scale",
)
HEADER = "# Written by tools/write_metafiles.py from configs and configs/figures.yml.\n"


def model_index() -> dict[str, Any]:
    """The content of model-index.yml."""
    return {"Import": [f"configs/{name}/metafile.yml" for name in FOLDERS]}


def metafile_of(folder: str) -> dict[str, Any]:
    """The content of the metafile of a folder in configs."""
    figures = yaml.safe_load((CONFIGS / "figures.yml").read_text())
    return metafile(CONFIGS / folder, figures, folder == FOLDERS[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Writes all; returns the exit status."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    for name in FOLDERS:
        write(CONFIGS / name / "metafile.yml", metafile_of(name))
    write(ROOT / "model-index.yml", model_index())
    return 0


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a file, and prints which."""
    path.write_text(HEADER + yaml.safe_dump(content, sort_keys=False, width=88))
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
