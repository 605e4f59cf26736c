"""The rows of records with several seeds, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from saim_mm.visualization.figure import new_figure, plain_axes, render, save_png

from .scale import Scale
from .statistics import Estimate
from .systems import rows_of
from .tuning import FIGURES

_INCHES_PER_ROW = 0.28


#: What a row is drawn at: a budget, or "" where there are none. Then the figures.
Series = dict[str, dict[str, Estimate]]


def chart_rows(contents: Sequence[dict[str, Any]]) -> list[tuple[str, Series]]:
    """What is drawn: of each record the rows that have an interval, best probe first.

    Where rows are compared at equal compute, those of a single seed are drawn too, and
    a row's budgets stand beside each other.

    Args:
        contents: Of records, as :func:`.table.summarise` makes them.

    Returns:
        Label, and figures by budget. If there is none, labels of records after the
        first say their learning rate.
    """
    found: dict[str, Series] = {}
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
            label, series = rows_of(scale)[name].title, ""
            if scale.budgets:
                series = "not pretrained"
                if rates[name] is not None:
                    series = f"{scale.budgets[content['budget']] / 1e12:g} TFLOP"
                series += " (1 seed)" * single
            elif number and rates[name] is not None:
                label += f", rate {rates[name]:g}"
            found.setdefault(label, {})[series] = estimates
    return sorted(found.items(), key=lambda row: -_best_probe(row[1]))


def _best_probe(series: Series) -> float:
    return max(estimates["linear"].mean for estimates in series.values())


def draw(contents: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a PNG: a panel per figure, mean and 95 % interval of every row.

    Raises:
        ValueError: If no row has more than one seed.
    """
    rows = chart_rows(contents)
    if not rows:
        raise ValueError("No row of these records has an interval; run more seeds.")
    drawn = [estimates for _, series in rows for estimates in series.values()]
    titles = {k: t for k, t in FIGURES.items() if all(k in d for d in drawn)}
    figure = new_figure(3 * len(titles), 1 + _INCHES_PER_ROW * len(rows))
    panels = figure.subplots(1, len(titles), sharey=True)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        _draw_figure(axes, rows, name)
        axes.set_xlabel(f"{title}, %")
    panels[0].set_yticks(range(len(rows)), [label for label, _ in rows])
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    if any(labels):
        place = "outside upper center"
        figure.legend(handles, labels, loc=place, ncols=len(labels), frameon=False)
    save_png(render(figure), path)


def _draw_figure(axes: Axes, rows: list[tuple[str, Series]], name: str) -> None:
    """One panel: a colour for each budget."""
    for wanted in dict.fromkeys(key for _, series in rows for key in series):
        found = [(n, s[wanted][name]) for n, (_, s) in enumerate(rows) if wanted in s]
        axes.errorbar(
            [estimate.mean for _, estimate in found],
            [place for place, _ in found],
            xerr=[estimate.half_width or 0 for _, estimate in found],
            fmt="o",
            capsize=2,
            label=wanted,
        )
    plain_axes(axes)
    axes.margins(x=0.06)  # no point lies on the edge
