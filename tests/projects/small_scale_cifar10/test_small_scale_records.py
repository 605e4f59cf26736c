"""The suite's statistics, records, table and chart."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from projects.small_scale_cifar10.chart import chart, chart_rows, draw
from projects.small_scale_cifar10.results import Records
from projects.small_scale_cifar10.scale import PRESETS
from projects.small_scale_cifar10.scheduling import plan_runs
from projects.small_scale_cifar10.statistics import estimate, paired_difference
from projects.small_scale_cifar10.systems import SYSTEMS
from projects.small_scale_cifar10.table import markdown, summarise
from projects.small_scale_cifar10.tuning import Choice, Run, choose, ranking


@pytest.mark.parametrize("count", [*range(2, 12), 31])
def test_interval_is_student_s(count: int) -> None:
    values = np.random.default_rng(count).normal(50, 3, count)
    found = estimate(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("count", "quantile"),
    [(2, 12.706), (3, 4.303), (6, 2.571), (10, 2.262), (31, 2.042)],
)
def test_quantile_is_that_of_printed_tables(count: int, quantile: float) -> None:
    values = [1.0, -1.0] * (count // 2) + [0.0] * (count % 2)
    deviation = (2 * (count // 2) / (count - 1)) ** 0.5
    half_width = quantile * deviation / count**0.5
    assert estimate(values).half_width == pytest.approx(half_width, rel=3e-4)


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    one = estimate([3.0])
    assert (str(one), one.half_width) == ("3.0", None)
    with pytest.raises(ValueError, match="0 values"):
        estimate([])


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ much and the difference hardly: only pairing sees it."""
    gain = paired_difference(
        {0: 11.0, 1: 51.1, 2: 30.9, 7: 99.0}, {0: 10.0, 1: 50.0, 2: 30.0, 8: 0.0}
    )
    assert gain.count == 3
    assert gain.mean == pytest.approx(1.0)
    assert gain.half_width < 0.3
    assert gain.signed().startswith("+1.0")
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_plan_tunes_before_what_needs_it_and_pairs_seeds(
    tiny: Any, tmp_path: Path
) -> None:
    records = Records(tmp_path, tiny)
    names = [records.name(run) for run in plan_runs(["stochastic", "mae"], 2, tiny)]
    assert names == [
        "saim_seed0_tune_0.001", "saim_seed0_tune_0.002", "stochastic_seed0",
        "mae_seed0_tune_0.001", "mae_seed0_tune_0.002", "mae_seed0",
        "stochastic_seed1", "mae_seed1",
    ]  # fmt: skip


def test_the_best_rate_on_held_out_images_is_taken(tiny: Any, tmp_path: Path) -> None:
    records, counting = Records(tmp_path, tiny), Run("mse", 0)  # takes the rate of saim
    for trial, linear in enumerate((40.0, 50.0)):
        assert choose(counting, tiny, records.read()) is None
        records.write(
            Run("saim", 0, trial), dict(rate=tiny.rates[trial], linear=linear)
        )
    assert choose(counting, tiny, records.read()) == Choice(2e-3)
    # A run that counts, on test images, does not choose.
    records.write(Run("saim", 1), dict(rate=1e-3, linear=99.0))
    assert choose(counting, tiny, records.read()) == Choice(2e-3)


def test_all_rows_at_equal_compute_have_as_many_trials_and_names_of_their_own(
    tmp_path: Path,
) -> None:
    scale = PRESETS["cpu-equal"]
    runs = plan_runs(list(SYSTEMS), None, scale)
    records = Records(tmp_path, scale)
    assert len({records.name(run) for run in runs}) == len(runs)
    tried = Counter((run.row, run.budget) for run in runs if run.tuning)
    assert {tried[name, 0] for name in SYSTEMS if name != "random"} == {7}
    assert {tried[name, 1] for name in SYSTEMS if name != "random"} == {2}
    first = [run.row for run in runs if not run.tuning and not run.seed]
    assert first[: len(SYSTEMS)] == list(SYSTEMS)  # one of each before all else


@pytest.mark.parametrize("row", SYSTEMS)
def test_settings_come_back_from_a_record_as_they_were(row: str) -> None:
    """Else what they trained would be taken for another choice, and made anew."""
    alternatives = list(SYSTEMS[row].alternatives)
    assert json.loads(json.dumps(alternatives)) == alternatives


@pytest.mark.parametrize(("preset", "best"), [("tiny", 2e-3), ("tiny-equal", 1e-3)])
def test_knn_decides_too_where_operations_are_equal(preset: str, best: float) -> None:
    """The linear probe alone would take the greater rate."""
    common = dict(row="mae", tuning=True)
    records = [
        dict(common, rate=1e-3, knn=42.0, linear=47.0),
        dict(common, rate=2e-3, knn=37.0, linear=49.0),
        dict(common, rate=4e-3, knn=40.0, linear=46.0),
        dict(common, rate=8e-3, knn=99.0, linear=99.0, tuning=False),
    ]
    ranked = ranking(records, PRESETS[preset], "mae", 0)
    assert ranked[0].rate == best and len(ranked) == 3


def test_a_row_of_another_preset_is_refused(tiny: Any) -> None:
    with pytest.raises(ValueError, match=r"\['aim'\] are no rows of tiny"):
        plan_runs(["mae", "aim"], 1, tiny)


def test_records_of_another_scale_are_refused(tiny: Any, tmp_path: Path) -> None:
    Records(tmp_path, tiny)
    with pytest.raises(ValueError, match="give another --out"):
        Records(tmp_path, replace(tiny, width=32))
    with pytest.raises(ValueError, match="holds no records"):
        Records.open(tmp_path / "elsewhere")


_TRIAL = '{"row": "mae", "seed": 0, "tuning": true, "rate": %s, "linear": %s}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"row": "mae', "Unterminated string"),
        ("", "Expecting value"),
        ("7", "not iterable"),
        ("[]", "lacks"),
        ('{"row": "mae", "seed": 0, "tuning": false}', "lacks linear, rate"),
        (_TRIAL % ('"0.001"', "30"), "rate is '0.001', no number"),
        (_TRIAL % ("0.001", "NaN"), "linear is nan, no number"),
        (_TRIAL % ("0.001", "null"), "linear is None, no number"),
    ],
)
def test_what_is_no_record_is_named(
    tiny: Any, tmp_path: Path, text: str, why: str
) -> None:
    records = Records(tmp_path, tiny)
    (tmp_path / "mae_seed0.json").write_text(text)
    with pytest.raises(ValueError, match=rf"mae_seed0\.json.*{why}.*remove"):
        records.read()


def test_a_judged_record_without_a_figure_of_the_others_is_named(
    tiny: Any, tmp_path: Path
) -> None:
    records, figures = Records(tmp_path, tiny), dict(rate=1e-3, linear=1.0)
    records.write(Run("mae", 0, 0), figures)  # a trial has fewer
    records.write(Run("mae", 0), dict(figures, knn=2.0))
    assert len(records.read()) == 2
    records.write(Run("mae", 1), figures)
    with pytest.raises(ValueError, match=r"mae_seed1\.json lacks \['knn'\].*remove"):
        records.read()


def test_a_record_is_never_seen_half_written(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, run = Records(tmp_path, tiny), Run("random", 0)
    records.write(run, dict(rate=None, linear=1.0))

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError):
        records.write(run, dict(rate=None, linear=2.0))
    assert [record["linear"] for record in records.read()] == [1.0]


def test_table_says_what_was_not_run(tiny: Any) -> None:
    records = [
        dict(row=name, seed=seed, tuning=False, rate=1e-3, train_seconds=5.0,
             knn=30.0 + seed, linear=40.0 + gain + seed, finetune=50.0)
        for name, gain in (("stochastic", 2.0), ("raster-decoder", 0.0))
        for seed in range(3)
    ]  # fmt: skip
    text = markdown(records, tiny)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()
            if line.startswith("|")}  # fmt: skip
    assert "31.0 ± 2.5" in rows["`stochastic`"] and "43.0 ± 2.5" in rows["`stochastic`"]
    assert rows["`mae`"].count("not run") == 3
    claim = rows["stochastic order, not raster"]
    assert "+2.0 ± 0.0" in claim and "not run" not in claim
    assert "not run" in rows["SAIM, not MAE"]
    summary = summarise(records, tiny, [])
    gain = summary["claims"]["stochastic order, not raster"]["linear"]
    assert gain == dict(mean=2.0, half_width=0.0, count=3)


def test_tables_of_a_budget_have_its_runs_and_those_that_have_none() -> None:
    scale = PRESETS["tiny-equal"]
    common = dict(seed=0, tuning=False, knn=1.0, attentive=2.0)
    trained = dict(common, row="mae", rate=1e-3, images_seen=50, train_seconds=5.0)
    records = [
        dict(common, row="random", rate=None, linear=30.0),
        dict(trained, linear=40.0),
        dict(trained, linear=60.0, budget=1, changes=dict(mask_ratio=0.6)),
    ]
    for budget, (linear, setting) in enumerate((("40.0", ""), ("60.0", "mask_ratio"))):
        lines = markdown(records, scale, budget).splitlines()
        assert f"0.00{budget + 1} TFLOP of pretraining" in lines[0]
        (row,) = [line for line in lines if line.startswith("| `mae`")]
        assert f"| {linear} |" in row and "| 2.5 |" in row and setting in row
        assert "| 0.001 (edge) |" in row  # there are 0.001 and 0.002
        gain = f"| {30 - float(linear):.1f} |"
        (said,) = [line for line in lines if "`random` - `mae`" in line]
        assert gain in said
        assert "best layer" not in lines[2]  # nobody was judged by it
        assert sum("not run" in line for line in lines) > len(SYSTEMS)


def test_rows_tried_with_other_settings_alone_are_in_the_table_of_trials() -> None:
    """At a further budget both finalists of a row may have changed settings."""
    trial = dict(seed=0, tuning=True, rate=1e-3, budget=1)
    records = [
        dict(trial, row="mae", knn=20.0, linear=30.0, changes=dict(mask_ratio=0.6)),
        dict(trial, row="mae", knn=22.0, linear=32.0, changes=dict(decoder_depth=1)),
        dict(trial, row="saim", knn=21.0, linear=31.0),
    ]
    lines = markdown(records, PRESETS["tiny-equal"], 1).splitlines()
    tried = lines[lines.index("| row | 0.001 | settings |") + 2 :]
    assert [line for line in tried if line.startswith("|")] == [
        '| `mae` | not run | `"mask_ratio": 0.6` at 0.001: 20.0 / 30.0, '
        '`"decoder_depth": 1` at 0.001: 22.0 / 32.0 |',
        "| `saim` | 21.0 / 31.0 |  |",
    ]


def summary_of(
    scale: Any, runs: list[tuple[str, float | None, float, int]], budget: int = 0
) -> dict[str, Any]:
    """Of rows by name, rate, linear probe and number of seeds."""
    records = [
        dict(row=row, seed=seed, tuning=False, rate=rate, train_seconds=5.0,
             budget=budget, knn=linear - 10 + 2 * seed, linear=linear + seed,
             finetune=50.0)
        for row, rate, linear, seeds in runs
        for seed in range(seeds)
    ]  # fmt: skip
    return summarise(records, scale, [], budget)


def drawn_in(figure: Figure) -> dict[str, dict[str, list[tuple[str, Any, Any]]]]:
    """Panel -> budget -> label of the row, ends and mean of each interval."""
    places = figure.axes[0].get_yticks()
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert list(places) == list(range(len(names))) and figure.axes[0].yaxis_inverted()
    found: dict[str, dict[str, list[tuple[str, Any, Any]]]] = {}
    for axes in figure.axes:
        budgets = found.setdefault(axes.get_xlabel(), {})
        for container in axes.containers:
            points, _, (bars,) = container.lines
            budgets[container.get_label()] = [
                (names[round(y)], (segment[0, 0], segment[1, 0]), x)
                for (x, y), segment in zip(
                    points.get_xydata(), bars.get_segments(), strict=True
                )
            ]
    return found


def test_chart_has_the_rows_with_an_interval(tiny: Any, tmp_path: Path) -> None:
    def content(seeds: int, rate: float, linear: float) -> dict[str, Any]:
        runs = [("mae", rate, linear + 3, seeds), ("saim", rate, linear, seeds)]
        return summary_of(tiny, [*runs, ("l1", rate, linear + 9, 1)])

    contents = [content(3, 1e-3, 40.0), content(2, 8e-3, 42.0)]
    rows = chart_rows(contents)
    paper = "SAIM as in the paper (smoothing 9/1)"
    labels = ["MAE, rate 0.008", "MAE", f"{paper}, rate 0.008", paper]
    assert [label for label, _ in rows] == labels
    assert [series[0]["linear"].count for _, series in rows] == [2, 3, 2, 3]
    drawn = drawn_in(figure := chart(contents))
    assert list(drawn) == ["kNN, %", "linear probe, %", "fine-tuning, %"]
    assert not figure.legends
    (points,) = drawn["linear probe, %"].values()
    for (label, interval, mean), (wanted, series) in zip(points, rows, strict=True):
        known = series[0]["linear"]
        assert (label, mean) == (wanted, pytest.approx(known.mean))
        ends = (known.mean - known.half_width, known.mean + known.half_width)
        assert interval == pytest.approx(ends)
    draw(contents, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.width == 9 * 160
    for figures in contents[1]["rows"].values():
        figures.pop("finetune", None)  # judged by less
    assert list(drawn_in(chart(contents))) == ["kNN, %", "linear probe, %"]
    with pytest.raises(ValueError, match="run more seeds"):
        draw([content(1, 1e-3, 40.0)], tmp_path / "chart.png")


def test_chart_of_equal_compute_has_the_budgets_of_a_row_side_by_side() -> None:
    """From the smallest up, in one colour and on one line each, none over another."""
    scale = PRESETS["tiny-equal"]
    small = [("random", None, 30.0, 2), ("mae", 1e-3, 40.0, 2), ("saim", 1e-3, 39.0, 2)]
    large = [("random", None, 30.0, 2), ("saim", 1e-3, 50.0, 2), ("mae", 1e-3, 44.0, 1)]
    contents = [summary_of(scale, small), summary_of(scale, large, 1)]
    rows = {label: list(series) for label, series in chart_rows(contents)}
    paper = "SAIM as in the paper (smoothing 9/1)"
    assert rows == {paper: [1e9, 2e9], "MAE": [1e9], "random weights": [0]}
    assert list(rows) == [paper, "MAE", "random weights"]  # by the better budget
    for order in (contents, contents[::-1]):
        drawn = drawn_in(figure := chart(order))
        for panel, lower in (("kNN, %", 9.0), ("linear probe, %", -0.5)):
            means = {
                budget: [(label, mean + lower) for label, _, mean in points]
                for budget, points in drawn[panel].items()
            }
            assert means == {
                "0 TFLOP": [("random weights", 30.0)],
                "0.001 TFLOP": [(paper, 39.0), ("MAE", 40.0)],
                "0.002 TFLOP": [(paper, 50.0)],
            }
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == list(means)
        figure.canvas.draw()
        page, box = figure.bbox, legend.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and box.y1 <= page.y1
        heights = [c.lines[0].get_ydata() for c in figure.axes[0].containers]
        assert len({*np.concatenate(heights)}) == 4
        assert heights[1][0] < heights[2][0]  # the axis points down


def test_records_that_are_no_one_picture_are_refused(tiny: Any) -> None:
    scale = PRESETS["tiny-equal"]
    runs = [("mae", 1e-3, 40.0, 2)]
    one = summary_of(scale, runs)
    others = (
        one,
        summary_of(tiny, runs),
        summary_of(replace(scale, width=48), runs, 1),
    )
    for other in others:
        with pytest.raises(ValueError, match=r"no one picture.*of one `report`"):
            chart([one, other])
