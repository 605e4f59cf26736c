#!/usr/bin/env python
"""Writes the table of what each system of docs/experiments.md costs to pretrain.

Closed forms are checked against torch's counter: a forward pass of each at full size,
one image on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from saim_mm.evaluation.costs import CostRow, counted_share, pretraining_flops
from saim_mm.utils.command_line import one_line_errors

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- costs -->", "<!-- end of costs -->"
HEAD = """
| system | config | forward, GMAC | step, GFLOP | counter / closed form |
|---|---|---|---|---|
"""
SYSTEMS = {
    "SAIM": "saim/saim_vit-b_800e_in1k.py",
    "SAIM, cut": "saim/saim_vit-b_cut_800e_in1k.py",
    "SAIM, fast": "saim/saim_vit-b_fast_800e_in1k.py",
    "ViT-iGPT": "baselines/vit-igpt_vit-b_300e_in1k.py",
    "iGPT": "baselines/igpt_vit-b-p1_300e_in1k-32px.py",
    "RandSAC": "baselines/randsac_vit-b_1600e_in1k.py",
    "AIM": "baselines/aim_vit-b_400e_in1k.py",
    "AIM, small head": "baselines/aim_vit-b_head-4x768_400e_in1k.py",
    "NEPA": "baselines/nepa_vit-b-p14_1600e_in1k.py",
    "NEPA, stochastic": "baselines/nepa_vit-b-p14_stochastic_1600e_in1k.py",
    "CrossMAE, asks 75 %": "baselines/crossmae_vit-b_800e_in1k.py",
    "CrossMAE, asks 25 %": "baselines/crossmae_vit-b_ask-25_800e_in1k.py",
    "XTRA": "baselines/xtra_vit-b_800e_in1k-256px.py",
    "DINO": "baselines/dino_vit-b_400e_in1k.py",
    "DINO, ViT-S": "baselines/dino_vit-s_800e_in1k.py",
}


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    page = ROOT / "docs/experiments.md"
    parser.add_argument("--page", type=Path, default=page, help="has the two marks")
    args = parser.parse_args(argv)
    text = args.page.read_text()
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise ValueError(f"{args.page} needs the lines {BEGIN} and, below, {END}.")
    rows = []
    for name, config in SYSTEMS.items():
        path = ROOT / "configs" / config
        row = CostRow(name, config, pretraining_flops(path), counted_share(path))
        rows.append(str(row))
        print(row, flush=True)
    before, rest = args.page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    table = BEGIN + "\n" + HEAD + "\n".join(rows) + "\n\n" + END
    args.page.write_text(before + table + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
