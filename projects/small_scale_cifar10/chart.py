"""The rows of records with several seeds, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saim_mm.visualization.figure import new_figure, plain_axes, render, save_png

from .experiments import EXPERIMENTS
from .statistics import Estimate
from .table import FIGURES, TITLES

_INCHES_PER_ROW = 0.28


def chart_rows(
    contents: Sequence[dict[str, Any]],
) -> list[tuple[str, dict[str, Estimate]]]:
    """What is drawn: of each record the rows that have an interval, best probe first.

    Args:
        contents: Of records, as :func:`.table.summarise` makes them.

    Returns:
        Label and figures. Rows of records after the first say their learning rate.
    """
    found = []
    for number, content in enumerate(contents):
        rates = {
            run["row"]: run["rate"] for run in content["runs"] if not run["tuning"]
        }
        for name, figures in content["rows"].items():
            estimates = {key: Estimate(**value) for key, value in figures.items()}
            if not estimates or estimates["linear"].half_width is None:
                continue
            rate = f", rate {rates[name]:g}" if number else ""
            found.append((EXPERIMENTS[name].title + rate, estimates))
    return sorted(found, key=lambda row: -row[1]["linear"].mean)


def draw(contents: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a PNG: a panel per figure, mean and 95 % interval of every row.

    Raises:
        ValueError: If no row has more than one seed.
    """
    rows = chart_rows(contents)
    if not rows:
        raise ValueError("No row of these records has an interval; run more seeds.")
    figure = new_figure(9, 1 + _INCHES_PER_ROW * len(rows))
    panels = figure.subplots(1, len(FIGURES), sharey=True)
    places = range(len(rows))
    for axes, name, title in zip(panels, FIGURES, TITLES, strict=True):
        estimates = [figures[name] for _, figures in rows]
        axes.errorbar(
            [e.mean for e in estimates],
            places,
            xerr=[e.half_width for e in estimates],
            fmt="o",
            capsize=2,
        )
        plain_axes(axes)
        axes.set_xlabel(f"{title}, %")
    panels[0].set_yticks(places, [label for label, _ in rows])
    panels[0].invert_yaxis()
    save_png(render(figure), path)
