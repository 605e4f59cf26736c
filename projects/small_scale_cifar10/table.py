"""The summary of the records of a budget, as JSON and as Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .results import read_json
from .scale import Scale
from .statistics import Estimate, estimate, paired_difference
from .systems import SYSTEMS, rows_of
from .tuning import FIGURES, deciding

#: Below a line with the name of a record, and down to this line, a page has its tables.
_END = "<!-- end -->"

#: What the paper says, as differences between two rows, and its own gain in
#: fine-tuning accuracy (Tables 1, 3 and 4).
_CLAIMS = (
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


#: At equal compute every system is compared with MAE, the best with the second, too.
_COMPARISONS = (
    *(
        (f"{system.title}, not MAE", name, "mae", "-")
        for name, system in SYSTEMS.items()
        if name != "mae"
    ),
    (f"{SYSTEMS['combined'].title}, not CrossMAE", "combined", "crossmae", "-"),
    ("ViT-iGPT, judged with its mask, not without", "igpt-causal", "igpt", "-"),
)


def claims_of(scale: Scale) -> tuple[tuple[str, str, str, str], ...]:
    """What is said, the two rows that differ, and the paper's figure."""
    return _COMPARISONS if scale.budgets else _CLAIMS


def of_budget(records: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """The records of a budget; what is not trained belongs to all."""
    return [r for r in records if r.get("budget", 0) == budget or r.get("rate") is None]


def figures_in(records: list[dict[str, Any]]) -> dict[str, str]:
    """What the records are judged by, with titles; everything if there are none."""
    judged = [record for record in records if not record["tuning"]]
    found = {k: t for k, t in FIGURES.items() if any(k in record for record in judged)}
    return found or FIGURES


def summarise(
    records: list[dict[str, Any]], scale: Scale, environments: Any, budget: int = 0
) -> dict[str, Any]:
    """Everything that a reader needs to check the figures of a budget.

    Args:
        records: Finished runs.
        scale: Their scale.
        environments: Command, hardware and versions of each invocation.
        budget: Number of the budget.
    """
    records, figures = of_budget(records, budget), figures_in(records)
    rows = {
        name: {figure: asdict(estimate(list(values.values())))
               for figure in figures if (values := _by_seed(records, name, figure))}
        for name in rows_of(scale)
    }  # fmt: skip
    claims = {
        claim: {figure: asdict(gain) for figure in figures
                if (gain := _gain(records, first, second, figure))}
        for claim, first, second, _ in claims_of(scale)
    }  # fmt: skip
    return dict(
        circumstances=environments,
        settings=scale.as_json(),
        budget=budget,
        rows=rows,
        claims=claims,
        runs=records,
    )


def markdown(records: list[dict[str, Any]], scale: Scale, budget: int = 0) -> str:
    """Tables of rows, of claims and of learning rates."""
    records = of_budget(records, budget)
    lines = [_heading(scale, budget), "", *_row_table(records, scale), ""]
    lines += ["Differences, paired by seed:", "", *_claim_table(records, scale), ""]
    tried = " / ".join(FIGURES[figure] for figure in deciding(scale))
    lines += [f"On held-out images, by learning rate (seed 0): {tried}.", ""]
    lines += [*_rate_table(records, scale), ""]
    return "\n".join(lines)


def read_summary(path: Path) -> dict[str, Any]:
    """The JSON of a :func:`summarise`.

    Raises:
        ValueError: If it is something else.
        OSError: If it cannot be read.
    """
    content = read_json(path)
    wanted = {"settings", "rows", "runs"}
    if not isinstance(content, dict) or not wanted <= content.keys():
        raise ValueError(
            f"{path} lacks some of {sorted(wanted)}; give the JSON that `report` wrote."
        )
    return content


def fill_page(page: Path, record: Path) -> None:
    """Writes the tables of a record into a page, below the line with its name.

    Args:
        page: Markdown.
        record: JSON, as :func:`summarise` makes it.

    Raises:
        ValueError: If the record is something else, or the page lacks a marker.
        OSError: If one of them cannot be read.
    """
    content = read_summary(record)
    marker = f"<!-- {record.stem} -->"
    before, begin, rest = page.read_text().partition(marker)
    old, end, after = rest.partition(_END)
    if not begin or not end or "<!-- " in old:
        raise ValueError(f"{page} needs a line {marker} and, below it, its own {_END}.")
    scale = Scale.from_json(content["settings"])
    tables = markdown(content["runs"], scale, content.get("budget", 0))
    page.write_text(f"{before}{begin}\n\n{tables}{end}{after}")


def _heading(s: Scale, budget: int) -> str:
    length = f"{s.pretrain_epochs} epochs of pretraining and {s.finetune_epochs}"
    if s.budgets:
        operations = f"{s.budgets[budget] / 1e12:g} TFLOP"
        length = f"{operations} of pretraining and {s.finetune_epochs} epochs"
    return (
        f"ViT of {s.depth} layers and {s.width} channels, {s.image_size} px, "
        f"patch {s.patch_size}; {s.train_images:,} training images, {length} of "
        f"fine-tuning at batch {s.batch_size}; accuracy in percent on "
        f"{s.test_images:,} test images, mean and 95 % interval over the seeds."
    )


def _row_table(records: list[dict[str, Any]], scale: Scale) -> list[str]:
    figures = figures_in(records)
    about = ["seeds", "rate", "train s", *(["epochs", "setting"] * bool(scale.budgets))]
    rows = []
    for name, experiment in rows_of(scale).items():
        runs = [r for r in records if r["row"] == name and not r["tuning"]]
        cells = ["not run"] * len(figures) + [""] * len(about)
        if runs:
            cells = [str(estimate([r[figure] for r in runs])) for figure in figures]
            cells += [str(len(runs)), *_training(runs, scale)]
        rows.append([f"`{name}`", experiment.title, *cells])
    return _table(["row", "", *figures.values(), *about], rows)


def _training(runs: list[dict[str, Any]], scale: Scale) -> list[str]:
    """How a row was trained."""
    trained = [r for r in runs if "train_seconds" in r]
    if not trained:
        return ["-", "-", *(["-", ""] if scale.budgets else [])]
    rate, seconds = trained[0]["rate"], [r["train_seconds"] for r in trained]
    said = [f"{rate:g}", f"{estimate(seconds).mean:.0f}"]
    if scale.budgets:
        edge = rate in (min(scale.rates), max(scale.rates))
        epochs = trained[0]["images_seen"] / scale.train_images
        said[0] += " (edge)" * edge
        said += [f"{epochs:.1f}", _setting(trained[0])]
    return said


def _setting(record: dict[str, Any]) -> str:
    """The options that tuning changed."""
    changes = record.get("changes", {})
    return f"`{json.dumps(changes)[1:-1]}`" if changes else ""


def _claim_table(records: list[dict[str, Any]], scale: Scale) -> list[str]:
    figures, rows = figures_in(records), []
    for claim, first, second, paper in claims_of(scale):
        gains = [_gain(records, first, second, figure) for figure in figures]
        count = str(gains[0].count) if gains[0] else ""
        cells = [gain.signed() if gain else "not run" for gain in gains]
        papers = [] if scale.budgets else [paper]
        rows.append([claim, f"`{first}` - `{second}`", *cells, count, *papers])
    papers = [] if scale.budgets else ["paper, fine-tuning"]
    titles = ["claim", "rows", *figures.values(), "seeds", *papers]
    return _table(titles, rows)


def _rate_table(records: list[dict[str, Any]], scale: Scale) -> list[str]:
    tried, settings = _tuned_rates(records), _tuned_settings(records, scale)
    rates = sorted({rate for row in tried.values() for rate in row})
    rows = []
    for row in sorted({*tried, *settings}):
        found = tried.get(row, {})
        cells = [_held_out(found[r], scale) if r in found else "not run" for r in rates]
        others = [", ".join(settings.get(row, []))] if settings else []
        rows.append([f"`{row}`", *cells, *others])
    titles = ["row", *(f"{rate:g}" for rate in rates)]
    return _table([*titles, *(["settings"] if settings else [])], rows)


def _tuned_rates(
    records: list[dict[str, Any]],
) -> dict[str, dict[float, dict[str, Any]]]:
    """Row -> rate -> the trial of it."""
    tried: dict[str, dict[float, dict[str, Any]]] = {}
    for record in records:
        if record["tuning"] and not record.get("changes"):
            tried.setdefault(record["row"], {})[record["rate"]] = record
    return tried


def _held_out(record: dict[str, Any], scale: Scale) -> str:
    """The figures that decide, of a trial."""
    return " / ".join(f"{record[figure]:.1f}" for figure in deciding(scale))


def _tuned_settings(
    records: list[dict[str, Any]], scale: Scale
) -> dict[str, list[str]]:
    """Row -> other settings that were tried, with rate and what decides."""
    tried: dict[str, list[str]] = {}
    for record in records:
        if record["tuning"] and record.get("changes"):
            text = f"{_setting(record)} at {record['rate']:g}: "
            text += _held_out(record, scale)
            tried.setdefault(record["row"], []).append(text)
    return tried


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
