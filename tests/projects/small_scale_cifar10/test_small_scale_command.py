"""The suite's command: what is done, and what is said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from class_folders import launch
from small_scale_folders import write_folder

from projects.small_scale_cifar10 import scheduling
from projects.small_scale_cifar10.__main__ import main
from projects.small_scale_cifar10.results import Records
from projects.small_scale_cifar10.scale import PRESETS
from projects.small_scale_cifar10.scheduling import (
    RunContext,
    plan_runs,
    run_all,
    unfinished,
)
from projects.small_scale_cifar10.table import fill_page, summarise
from projects.small_scale_cifar10.tuning import Choice, Run, choose, chosen_now

ROOT = Path(__file__).parents[3]
PROJECT = "projects.small_scale_cifar10"


class Inline:
    """A pool that does each task at once, in this process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def submit(self, function: Callable, *arguments: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except ValueError as error:
            future.set_exception(error)
        return future


@pytest.fixture
def todo(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[str]]]:
    """Does two experiments with a stand-in for the judging; failed and done runs."""
    done: list[str] = []

    def judge(
        experiment: Any, _: Any, seed: int, rate: float | None, budget: Any, *__: Any
    ) -> dict:
        if rate == judge.fails:
            raise ValueError("diverged")
        said = [experiment.name, seed, rate, budget, *experiment.options.values()]
        done.append(" ".join(str(word) for word in said if word is not None))
        changed = 0.05 if experiment.options else 0
        return dict(linear=100 * (rate or 0) + changed, knn=0.0, seconds=1.0)

    def do(
        fails: float = -1.0, minutes: float = 1, seeds: int = 2, scale: Any = tiny
    ) -> tuple[int, list[str]]:
        done.clear()
        judge.fails = fails
        runs = plan_runs(["random", "mae"], seeds, scale)
        failed = run_all(runs, scale, context, 2, minutes)
        return failed, list(done)

    context = RunContext(tmp_path, "cpu", tmp_path / "out")
    monkeypatch.setattr(scheduling, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(scheduling, "judge", judge)
    monkeypatch.setitem(scheduling._loaded, context, None)
    return do


def test_runs_are_done_once_with_the_tuned_rate(todo: Callable) -> None:
    everything = ["random 0", "mae 0 0.001", "mae 0 0.002", "mae 0 0.002",
                  "random 1", "mae 1 0.002"]  # fmt: skip
    assert todo() == (0, everything)
    assert todo() == (0, [])


def test_what_another_choice_trained_is_done_anew(
    todo: Callable, tiny: Any, tmp_path: Path
) -> None:
    todo()
    records, trial = Records(tmp_path / "out", tiny), Run("mae", 0, 0)
    records.write(trial, dict(rate=1e-3, linear=99.0, knn=0.0))
    plan = plan_runs(["random", "mae"], 2, tiny)
    assert unfinished(plan, records) == [Run("mae", 0), Run("mae", 1)]
    assert todo() == (0, ["mae 0 0.001", "mae 1 0.001"])
    assert todo() == (0, [])


def test_what_is_judged_waits_for_settings_tried_at_another_rate(
    todo: Callable, tmp_path: Path
) -> None:
    """The settings' records are of the old rate, and the best of all until then."""
    scale = PRESETS["tiny-equal"]
    todo(seeds=1, scale=scale)
    records, trial = Records(tmp_path / "out", scale), Run("mae", 0, 0)
    best = choose(Run("mae", 0), scale, records.read())
    assert best == Choice(2e-3, dict(mask_ratio=0.6))
    records.write(trial, dict(rate=1e-3, linear=0.23, knn=0.0))  # better than 0.002
    assert choose(Run("mae", 0), scale, records.read()) is None
    everything = ["mae 0 0.001 1e9 0.6", "mae 0 0.001 1e9 1", "mae 0 0.001 1e9"]
    failed, done = todo(seeds=1, scale=scale)
    assert failed == 0
    assert done[:3] == [line.replace("e9", "000000000.0") for line in everything]


@pytest.mark.parametrize("linear", [0.1, 99.0])
def test_a_trial_of_a_rate_that_is_none_is_done_anew(
    todo: Callable, tmp_path: Path, linear: float
) -> None:
    """It chooses nothing, not even while it waits; all ends as it was, at once."""
    scale = PRESETS["tiny-equal"]
    todo(seeds=1, scale=scale)
    records, trial = Records(tmp_path / "out", scale), Run("mae", 0, 0)
    before = records.read()
    records.write(trial, dict(rate=5e-3, linear=linear, knn=0.0))
    assert choose(Run("mae", 0, 2), scale, records.read()) is None  # a setting
    failed, done = todo(seeds=1, scale=scale)
    assert (failed, done) == (0, ["mae 0 0.001 1000000000.0"])
    assert records.read() == before


def test_what_another_choice_trained_is_not_reported(
    todo: Callable, tiny: Any, tmp_path: Path
) -> None:
    todo()
    records, trial = Records(tmp_path / "out", tiny), Run("mae", 0, 0)
    assert chosen_now(records.read(), tiny) == records.read()
    records.write(trial, dict(rate=1e-3, linear=99.0, knn=0.0))
    rows = [r["row"] for r in chosen_now(records.read(), tiny) if not r["tuning"]]
    assert rows == ["random", "random"]


def test_a_failure_stops_only_what_builds_on_it(todo: Callable) -> None:
    failed, done = todo(fails=0.002)
    assert done == ["random 0", "mae 0 0.001", "random 1"]
    assert failed == 3  # the tuning, and two runs that lack a rate
    assert todo() == (0, ["mae 0 0.002", "mae 0 0.002", "mae 1 0.002"])


def test_budgets_are_tuned_from_all_rates_and_settings_to_the_best_two(
    todo: Callable,
) -> None:
    """MAE's alternatives are a mask ratio of 0.6 and a decoder of one layer."""
    scale = PRESETS["tiny-equal"]
    everything = [
        "random 0 1e9",
        *("mae 0 0.001 1e9", "mae 0 0.002 1e9"),
        *("mae 0 0.002 1e9 0.6", "mae 0 0.002 1e9 1"),
        "mae 0 0.002 1e9 0.6",  # of two alike the first
        *("mae 0 0.002 2e9 0.6", "mae 0 0.002 2e9 1"),
        "mae 0 0.002 2e9 0.6",
    ]
    everything = [line.replace("e9", "000000000.0") for line in everything]
    assert todo(seeds=1, scale=scale) == (0, everything)
    assert todo(seeds=1, scale=scale) == (0, [])


def test_none_is_begun_after_the_time_is_up(
    todo: Callable, capsys: pytest.CaptureFixture
) -> None:
    assert todo(minutes=0) == (0, [])
    assert "6 runs have no time left" in capsys.readouterr().out


def test_page_gets_the_table_of_the_record(tiny: Any, tmp_path: Path) -> None:
    record, page = tmp_path / "record.json", tmp_path / "page.md"
    summary = summarise([], tiny, [])
    record.write_text(json.dumps(summary))
    page.write_text("before\n<!-- record -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        fill_page(page, record)
        text = page.read_text()
        assert text.startswith("before\n<!-- record -->\n\nViT of 2 layers")
        assert text.endswith("<!-- end -->\nafter\n") and "old" not in text
    for text in ("no markers", "<!-- record -->\n<!-- next -->\n<!-- end -->\n"):
        page.write_text(text)
        with pytest.raises(ValueError, match="<!-- record -->"):
            fill_page(page, record)
        assert page.read_text() == text


@pytest.mark.parametrize(
    ("record", "page", "why"),
    [
        ("none.json", "page.md", r"none\.json: No such file"),
        ("page.md", "page.md", r"page\.md is no JSON: Expecting value"),
        ("run.json", "page.md", r"run\.json lacks some of.*`report` wrote"),
        ("record.json", "none.md", r"none\.md: No such file"),
    ],
)
def test_what_is_no_record_or_page_is_one_line(
    tiny: Any, tmp_path: Path, capsys: Any, record: str, page: str, why: str
) -> None:
    (tmp_path / "record.json").write_text(json.dumps(summarise([], tiny, [])))
    (tmp_path / "run.json").write_text('{"row": "mae"}')
    (tmp_path / "page.md").write_text("no record")
    given = ["--record", str(tmp_path / record), "--page", str(tmp_path / page)]
    assert main(["page", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(why, line)


def test_docs_show_the_committed_record(tmp_path: Path) -> None:
    records = sorted((ROOT / "benchmarks").glob("*_cifar10_cpu*.json"))
    if not records:
        pytest.skip("no small-scale run is recorded")
    page = tmp_path / "experiments.md"
    page.write_text((ROOT / "docs/experiments.md").read_text())
    shown = [r for r in records if f"<!-- {r.stem} -->" in page.read_text()]
    assert shown
    for record in shown:
        fill_page(page, record)
    assert page.read_text() == (ROOT / "docs/experiments.md").read_text()


@pytest.mark.slow
def test_command_runs_and_reports(tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    ran = launch(PROJECT, "run", "--data", data, "--out", out, "--preset", "tiny",
                 "--device", "cpu", "--rows", "random", "--seeds", "2")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(" s\n") == 2
    reported = launch(PROJECT, "report", "--out", out, "--name", tmp_path / "sum")
    assert reported.returncode == 0, reported.stderr
    summary = json.loads((tmp_path / "sum.json").read_text())
    assert summary["rows"]["random"]["linear"]["count"] == 2
    (begun,) = summary["circumstances"]
    assert "python -m projects.small_scale_cifar10 run" in begun["command"]
    assert "| `random` |" in (tmp_path / "sum.md").read_text()
