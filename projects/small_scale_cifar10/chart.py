"""The rows of records with several seeds, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saim_mm.visualization.figure import new_figure, plain_axes, render, save_png

from .scale import Scale
from .statistics import Estimate
from .systems import rows_of
from .tuning import FIGURES

_INCHES_PER_ROW = 0.28
#: Rows between the budgets of a row, so that none hides another.
_APART = 0.3

#: Figures of a row by the operations of its pretraining: 0 if it has none, and where
#: all rows have equally many epochs.
Series = dict[float, dict[str, Estimate]]


def chart_rows(contents: Sequence[dict[str, Any]]) -> list[tuple[str, Series]]:
    """What is drawn: of each record the rows that have an interval, best probe first.

    Args:
        contents: Of records, as :func:`.table.summarise` makes them; those at equal
            compute have the same settings, and each its budget.

    Returns:
        Label and figures. At equal compute a row is there once, with its budgets; else
        the labels of records after the first say their learning rate.

    Raises:
        ValueError: If the records do not go together.
    """
    scales = [Scale.from_json(content["settings"]) for content in contents]
    budgets = [content.get("budget", 0) for content in contents]
    if any(scale.budgets for scale in scales) and (
        len(set(scales)) > 1 or len(set(budgets)) < len(budgets)
    ):
        raise ValueError(
            f"Records of {[scale.name for scale in scales]} with the budgets "
            f"{[budget + 1 for budget in budgets]} are no one picture; at equal "
            "compute draw those of one `report`, each once."
        )
    found: dict[str, Series] = {}
    for number, (content, scale) in enumerate(zip(contents, scales, strict=True)):
        rates = {
            run["row"]: run["rate"] for run in content["runs"] if not run["tuning"]
        }
        for name, figures in content["rows"].items():
            estimates = {key: Estimate(**value) for key, value in figures.items()}
            if not estimates or estimates["linear"].half_width is None:
                continue
            label, operations = rows_of(scale)[name].title, 0.0
            if rates[name] is not None and scale.budgets:
                operations = scale.budgets[budgets[number]]
            elif rates[name] is not None and number:
                label += f", rate {rates[name]:g}"
            found.setdefault(label, {})[operations] = estimates
    return sorted(found.items(), key=lambda row: -_best_probe(row[1]))


def _best_probe(series: Series) -> float:
    return max(estimates["linear"].mean for estimates in series.values())


def draw(contents: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes :func:`chart` of records as a PNG."""
    save_png(render(chart(contents)), path)


def chart(contents: Sequence[dict[str, Any]]) -> Figure:
    """A panel per figure: mean and 95 % interval of every row, a colour per budget.

    Raises:
        ValueError: If no row has more than one seed.
    """
    rows = chart_rows(contents)
    if not rows:
        raise ValueError("No row of these records has an interval; run more seeds.")
    drawn = [estimates for _, series in rows for estimates in series.values()]
    titles = {k: t for k, t in FIGURES.items() if all(k in d for d in drawn)}
    figure = new_figure(3 * len(titles), 1 + _INCHES_PER_ROW * len(rows))
    (panels,) = figure.subplots(1, len(titles), sharey=True, squeeze=False)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        _draw_panel(axes, rows, name)
        axes.set_xlabel(f"{title}, %")
    panels[0].set_yticks(range(len(rows)), [label for label, _ in rows])
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        place = "outside upper center"
        figure.legend(handles, labels, loc=place, ncols=len(titles), frameon=False)
    return figure


def _draw_panel(axes: Axes, rows: list[tuple[str, Series]], name: str) -> None:
    points: dict[float, list[tuple[float, Estimate]]] = {}
    for place, (_, series) in enumerate(rows):
        top = place - _APART * (len(series) - 1) / 2
        for number, operations in enumerate(sorted(series)):
            point = (top + _APART * number, series[operations][name])
            points.setdefault(operations, []).append(point)
    for operations, found in sorted(points.items()):
        axes.errorbar(
            [estimate.mean for _, estimate in found],
            [place for place, _ in found],
            xerr=[estimate.half_width for _, estimate in found],
            fmt="o",
            markersize=5,
            capsize=2,
            label=f"{operations / 1e12:g} TFLOP",
        )
    plain_axes(axes)
    axes.margins(x=0.06)  # no point lies on the edge
