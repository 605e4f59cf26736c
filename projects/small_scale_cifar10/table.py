"""The summary of all records, as JSON and as Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .experiments import EXPERIMENTS
from .results import tuned_rates
from .statistics import Estimate, estimate, paired_difference

#: Between these lines of a page stand the tables.
_BEGIN, _END = "<!-- small-scale -->", "<!-- end -->"

FIGURES = ("knn", "linear", "finetune")
TITLES = ("kNN", "linear probe", "fine-tuning")

#: What the paper says, as differences between two rows, and its own gain in
#: fine-tuning accuracy (Tables 1, 3 and 4).
CLAIMS = (
    ("stochastic order, not raster", "stochastic", "raster-decoder", "+0.64"),
    ("the same with half a decoder", "decoder-half", "raster-decoder-half", "-"),
    ("a decoder in raster order", "raster-decoder", "raster", "+0.06"),
    ("a decoder of its own, not coupled", "stochastic", "coupled", "+0.38"),
    ("a deep decoder, not 1 layer", "stochastic", "decoder-1", "+0.64"),
    ("smoothing 9/1, not none", "saim", "stochastic", "+0.24"),
    ("smoothing 3/1, not none", "smooth-3", "stochastic", "+0.12"),
    ("normalised targets, not plain", "saim", "mse", "+0.50"),
    ("MSE, not L1, of plain pixels", "mse", "l1", "+0.12"),
    ("all queries, not half", "saim", "query-half", "-"),
    ("all queries, not a quarter", "saim", "query-quarter", "-"),
    ("SAIM, not ViT-iGPT", "saim", "raster", "+0.94"),
    ("SAIM, not MAE", "saim", "mae", "+0.0 (300 epochs; MAE 1600)"),
    ("SAIM, not random weights", "saim", "random", "-"),
)


def summarise(
    records: list[dict[str, Any]], settings: dict[str, Any], environments: Any
) -> dict[str, Any]:
    """Everything that a reader needs to check the figures.

    Args:
        records: Finished runs.
        settings: The scale.
        environments: Command, hardware and versions of each invocation.
    """
    rows = {
        name: {figure: asdict(estimate(list(values.values())))
               for figure in FIGURES if (values := _by_seed(records, name, figure))}
        for name in EXPERIMENTS
    }  # fmt: skip
    claims = {
        claim: {figure: asdict(gain) for figure in FIGURES
                if (gain := _gain(records, first, second, figure))}
        for claim, first, second, _ in CLAIMS
    }  # fmt: skip
    return dict(
        circumstances=environments,
        settings=settings,
        rows=rows,
        claims=claims,
        tuned_rates={
            row: {f"{rate:g}": linear for rate, linear in tried.items()}
            for row, tried in tuned_rates(records).items()
        },
        runs=records,
    )


def markdown(records: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Tables of rows, of claims and of learning rates."""
    lines = [_heading(settings), "", *_row_table(records), ""]
    lines += ["Differences, paired by seed:", "", *_claim_table(records), ""]
    lines += ["Linear probe on held-out images by learning rate (seed 0):", ""]
    lines += [*_rate_table(records), ""]
    return "\n".join(lines)


def fill_page(page: Path, record: Path) -> None:
    """Writes the tables of a record into a page, between its two markers.

    Args:
        page: Markdown.
        record: JSON, as :func:`summarise` makes it.

    Raises:
        ValueError: If the page lacks a marker.
    """
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page} needs a line {_BEGIN} and, below it, {_END}.")
    content = json.loads(record.read_text())
    tables = markdown(content["runs"], content["settings"])
    page.write_text(f"{before}{begin}\n\n{tables}{end}{after}")


def _heading(settings: dict[str, Any]) -> str:
    s = settings
    return (
        f"ViT of {s['depth']} layers and {s['width']} channels, {s['image_size']} px, "
        f"patch {s['patch_size']}; {s['train_images']:,} training images, "
        f"{s['pretrain_epochs']} epochs of pretraining and {s['finetune_epochs']} of "
        f"fine-tuning at batch {s['batch_size']}; accuracy in percent on "
        f"{s['test_images']:,} test images, mean and 95 % interval over the seeds."
    )


def _row_table(records: list[dict[str, Any]]) -> list[str]:
    rows = []
    for name, experiment in EXPERIMENTS.items():
        runs = [r for r in records if r["row"] == name and not r["tuning"]]
        cells = ["not run"] * 3 + [""] * 3
        if runs:
            trained = [r["train_seconds"] for r in runs if "train_seconds" in r]
            seconds = f"{estimate(trained).mean:.0f}" if trained else "-"
            rate = f"{runs[0]['rate']:g}" if runs[0]["rate"] else "-"
            cells = [str(estimate([r[figure] for r in runs])) for figure in FIGURES]
            cells += [str(len(runs)), rate, seconds]
        rows.append([f"`{name}`", experiment.title, *cells])
    return _table(["row", "", *TITLES, "seeds", "rate", "train s"], rows)


def _claim_table(records: list[dict[str, Any]]) -> list[str]:
    rows = []
    for claim, first, second, paper in CLAIMS:
        gains = [_gain(records, first, second, figure) for figure in FIGURES]
        count = str(gains[0].count) if gains[0] else ""
        cells = [gain.signed() if gain else "not run" for gain in gains]
        rows.append([claim, f"`{first}` - `{second}`", *cells, count, paper])
    return _table(["claim", "rows", *TITLES, "seeds", "paper, fine-tuning"], rows)


def _rate_table(records: list[dict[str, Any]]) -> list[str]:
    tried = tuned_rates(records)
    rates = sorted({rate for row in tried.values() for rate in row})
    rows = []
    for row, figures in tried.items():
        cells = [f"{figures[r]:.1f}" if r in figures else "not run" for r in rates]
        rows.append([f"`{row}`", *cells])
    return _table(["row", *(f"{rate:g}" for rate in rates)], rows)


def _gain(
    records: list[dict[str, Any]], first: str, second: str, figure: str
) -> Estimate | None:
    return paired_difference(
        _by_seed(records, first, figure), _by_seed(records, second, figure)
    )


def _by_seed(records: list[dict[str, Any]], name: str, figure: str) -> dict[int, float]:
    return {
        record["seed"]: record[figure]
        for record in records
        if record["row"] == name and not record["tuning"]
    }


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(cells) + " |" for cells in (titles, *rows)]
    return [head, "|" + "---|" * len(titles), *body]
