#!/usr/bin/env python
"""A linear classifier on the frozen features of a checkpoint, without augmentation.

The paper's benchmark is configs/saim/benchmarks/vit-b_linear_90e_in1k.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from saim_mm.cli._arguments import JUDGING, RECIPE, add_shared
from saim_mm.evaluation import ProbeRecipe, judge
from saim_mm.utils.atomic_file import write_json
from saim_mm.utils.command_line import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints accuracies in percent and the recipe; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_shared(parser, "checkpoint", "data", *JUDGING, *RECIPE)
    parser.add_argument("--out", type=Path, help="write the result to this .json file")
    options = vars(parser.parse_args(argv))
    recipe = [options.pop(name) for name in ("epochs", "probe_batch_size", "base_lr")]
    out = options.pop("out")

    features = judge.frozen_features(**options)
    result = judge.judge_by_linear_probe(features, ProbeRecipe(*recipe)).figures
    print(json.dumps(result, indent=1))
    if out:
        write_json(out, result, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
