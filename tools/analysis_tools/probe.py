#!/usr/bin/env python
"""Judges the frozen features of a checkpoint by any probes, in one pass.

docs/probes.md says what each measures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from saim_mm.cli._arguments import JUDGING, add_shared
from saim_mm.evaluation import KNOWN_PROBES, judge
from saim_mm.evaluation.probes import curves_of, named_probes
from saim_mm.utils.atomic_file import write_json
from saim_mm.utils.command_line import one_line_errors
from saim_mm.visualization import draw_layer_curve, save_png


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints what the probes found; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_shared(parser, "checkpoint", "data", *JUDGING)
    add = parser.add_argument
    add("--probe", nargs="+", choices=list(KNOWN_PROBES), default=["knn", "linear"])
    add("--layer", type=int, default=-1, help="of knn, linear and rankme; -1: the last")
    add("--out", type=Path, help="write the result to this .json file")
    add("--curve", type=Path, help="draw the accuracy by depth (with linear-best)")
    options = vars(parser.parse_args(argv))
    out, curve, probes, layer = (
        options.pop(name) for name in ("out", "curve", "probe", "layer")
    )
    if curve and "linear-best" not in probes:
        raise ValueError("--curve draws what --probe linear-best finds; name it, too.")

    named = named_probes(probes, options["pool"], layer)
    features = judge.frozen_features(**options, probes=named)
    result = judge.judge_by_probes(features, named).figures
    print(json.dumps(result, indent=1))
    if out:
        write_json(out, result, indent=1)
    if curve:
        save_png(draw_layer_curve(curves_of(result)), curve)
        print(curve)
    return 0


if __name__ == "__main__":
    sys.exit(main())
