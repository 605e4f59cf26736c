#!/usr/bin/env python
"""Weighted k nearest neighbours on the frozen features of a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from saim_mm.cli._arguments import JUDGING, NEIGHBOURS, add_shared
from saim_mm.evaluation import judge
from saim_mm.utils.atomic_file import write_json
from saim_mm.utils.command_line import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints accuracies in percent; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_shared(parser, "checkpoint", "data", *JUDGING, *NEIGHBOURS)
    parser.add_argument("--out", type=Path, help="write the result to this .json file")
    options = vars(parser.parse_args(argv))
    ks, temperature, out = (options.pop(name) for name in ("k", "temperature", "out"))

    features = judge.frozen_features(**options)
    result = judge.judge_by_knn(features, ks, temperature).figures
    print(json.dumps(result, indent=1))
    if out:
        write_json(out, result, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
