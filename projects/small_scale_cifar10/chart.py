"""The rows of records with several seeds, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saim_mm.visualization.figure import new_figure, plain_axes, render, save_png

from .scale import Scale
from .statistics import Estimate
from .systems import rows_of
from .tuning import FIGURES

_INCHES_PER_ROW = 0.28


def chart_rows(
    contents: Sequence[dict[str, Any]],
) -> list[tuple[str, dict[str, Estimate]]]:
    """What is drawn: of each record the rows that have an interval, best probe first.

    Where rows are compared at equal compute, those of a single seed are drawn too.

    Args:
        contents: Of records, as :func:`.table.summarise` makes them.

    Returns:
        Label and figures. Rows say their budget, or if there is none, those of records
        after the first, their learning rate.
    """
    found: dict[str, dict[str, Estimate]] = {}
    for number, content in enumerate(contents):
        scale = Scale.from_json(content["settings"])
        rates = {
            run["row"]: run["rate"] for run in content["runs"] if not run["tuning"]
        }
        for name, figures in content["rows"].items():
            estimates = {key: Estimate(**value) for key, value in figures.items()}
            single = bool(estimates) and estimates["linear"].half_width is None
            if not estimates or (single and not scale.budgets):
                continue
            about = ""
            if number and rates[name] is not None:
                about = f", rate {rates[name]:g}"
            if scale.budgets and rates[name] is not None:
                about = f", {scale.budgets[content['budget']] / 1e12:g} TFLOP"
            about += " (1 seed)" * single
            found[rows_of(scale)[name].title + about] = estimates
    return sorted(found.items(), key=lambda row: -row[1]["linear"].mean)


def draw(contents: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a PNG: a panel per figure, mean and 95 % interval of every row.

    Raises:
        ValueError: If no row has more than one seed.
    """
    rows = chart_rows(contents)
    if not rows:
        raise ValueError("No row of these records has an interval; run more seeds.")
    titles = {k: t for k, t in FIGURES.items() if all(k in row for _, row in rows)}
    figure = new_figure(3 * len(titles), 1 + _INCHES_PER_ROW * len(rows))
    panels = figure.subplots(1, len(titles), sharey=True)
    places = range(len(rows))
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        estimates = [figures[name] for _, figures in rows]
        axes.errorbar(
            [e.mean for e in estimates],
            places,
            xerr=[e.half_width or 0 for e in estimates],
            fmt="o",
            capsize=2,
        )
        plain_axes(axes)
        axes.margins(x=0.06)  # no point lies on the edge
        axes.set_xlabel(f"{title}, %")
    panels[0].set_yticks(places, [label for label, _ in rows])
    panels[0].invert_yaxis()
    save_png(render(figure), path)
