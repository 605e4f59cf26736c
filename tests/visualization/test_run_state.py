"""Where a run is, by what its folder holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from saim_mm.visualization.run_record import read_run
from saim_mm.visualization.run_state import (
    RunState,
    describe_state,
    run_state,
    troubles,
)

NOW = 1_800_000_000.0
LINE = "2026/01/01 00:00:0{} - mmengine - {}\n".format


def write_run(
    folder: Path,
    steps: int,
    log: str,
    config: str,
    written: float = NOW,
    every: int = 1,
) -> Path:
    """A run of which a loss was logged every so many steps, each of 2 s."""
    vis_data = folder / "20260101_000000" / "vis_data"
    vis_data.mkdir(parents=True, exist_ok=True)
    records = [dict(loss=1.0, time=2.0, step=s) for s in range(every, steps + 1, every)]
    files = {
        vis_data / "scalars.json": "".join(json.dumps(r) + "\n" for r in records),
        vis_data / "config.py": config,
        vis_data.parent / "20260101_000000.log": log,
    }
    for path, text in files.items():
        path.write_text(text)
        os.utime(path, (written, written))
    return folder


def state(*args, now: float = NOW, **options) -> RunState:
    return run_state(read_run(write_run(*args, **options)), now)


ITERATIONS = "train_cfg = dict(max_iters=100, type='ExactIterLoop')"
EPOCHS = "train_cfg = dict(max_epochs=3)"


@pytest.mark.parametrize(
    ("log", "config", "done"),
    [
        ("", ITERATIONS, 40),
        (LINE(1, "INFO - Iter(train) [ 40/100]  loss: 1"), "", 40),
        (LINE(1, "INFO - step 50/100  loss: 1"), "", 50),
    ],
)
def test_a_run_that_counts_iterations(tmp_path, log, config, done) -> None:
    found = state(tmp_path, 40, log, config, now=NOW + 10)
    assert (found.word, found.done, found.total) == ("running", done, 100)
    assert found.left == pytest.approx(2 * (100 - done) - 10)
    assert found.silent == 10 and not found.ended


def test_a_run_that_counts_epochs(tmp_path: Path) -> None:
    log = LINE(1, "INFO - Epoch(train)  [1][40/40]  lr: 1") + LINE(
        2, "INFO - Epoch(train)  [2][ 5/40]  lr: 1"
    )
    found = state(tmp_path, 40, log, EPOCHS)
    assert (found.word, found.done, found.total) == ("running", 45, 120)
    log += LINE(3, "INFO - Saving checkpoint at 3 epochs")
    found = state(tmp_path, 40, log, EPOCHS)
    assert (found.word, found.done, found.left) == ("finished", 120, None)


def test_what_lies_between_its_lines_makes_a_run_silent(tmp_path: Path) -> None:
    for every, seconds, word in (
        (1, 179, "running"),
        (1, 181, "silent"),
        (40, 239, "running"),  # three lines of 80 s
        (40, 241, "silent"),
    ):
        folder = tmp_path / f"{every}"
        run = read_run(write_run(folder, 80, "", ITERATIONS, every=every))
        assert run_state(run, NOW + seconds).word == word, (every, seconds)
        assert run_state(run, NOW - 5).silent == 0  # a clock that was set


def test_a_run_that_was_stopped_and_goes_on(tmp_path: Path) -> None:
    said = "SIGTERM: saved run/iter_40.pth; the same command with --resume goes on"
    log = LINE(1, "INFO - step 1/100") + LINE(2, f"INFO - {said}")
    found = state(tmp_path, 40, log, ITERATIONS)
    assert (found.word, found.ended) == ("stopped", True)
    assert found.reason == "SIGTERM: saved run/iter_40.pth"
    later = tmp_path / "20260102_000000"
    later.mkdir()
    (later / "a.log").write_text("loading")  # says nothing of training yet
    assert run_state(read_run(tmp_path), NOW).word == "stopped"
    (later / "a.log").write_text(LINE(3, "INFO - step 41/100"))
    assert run_state(read_run(tmp_path), NOW).word == "running"


def test_a_run_that_the_watchdog_ended(tmp_path: Path) -> None:
    said = (
        "/x/watchdog.py - _end - 170 - rank 1 got no further for 50 s; all processes "
        "end (exit code 69)\n  rank 0: in the step of iteration 3\n  rank 1: loading"
    )
    run = read_run(
        write_run(
            tmp_path, 3, LINE(1, "INFO - step 1/9") + LINE(2, f"ERROR - {said}"), ""
        )
    )
    assert run_state(run, NOW).word == "stopped"
    assert run.log.ended.startswith("rank 1 got no further for 50 s")
    (row,), _ = troubles(run)
    assert row[0] == "2026/01/01 00:00:02 ERROR"
    assert row[1].splitlines()[1:] == [
        "  rank 0: in the step of iteration 3",
        "  rank 1: loading",
    ]


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    found = run_state(run, NOW)
    assert found == RunState("not begun", 0, None, None, None)
    assert describe_state(found, NOW) == "Not begun; iteration 0."


def test_what_went_wrong(tmp_path: Path) -> None:
    guard = "loss or gradient is not finite, no step was made"
    log = "".join(
        LINE(n, f"WARNING - {text}")
        for n, text in enumerate(
            [
                f"iteration 7: {guard} (1 in a row, 1 in all); x",
                "broken image 1 of at most 3: 'a.png': no image",
                f"iteration 9: {guard} (1 in a row, 5 in all); x",
            ]
        )
    )
    write_run(tmp_path, 9, log, "")
    for name in ("iter_7_rank_0", "iter_7_rank_1", "iter_9_rank_0", "other"):
        path = tmp_path / "not_finite" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{")
    broken = [dict(path=f"{n}.png", reason="empty") for n in range(25)]
    (tmp_path / "broken_images.json").write_text(json.dumps(broken))
    run = read_run(tmp_path)
    assert (run.log.skipped, list(run.not_finite), len(run.broken)) == (5, [7, 9], 25)
    rows, more = troubles(run)
    assert rows[0] == ("loss or gradient not finite", "2 records in not_finite, of "
        "iteration 7, 9")  # fmt: skip
    assert rows[1:4] == [
        ("broken images", "25, each replaced by another"),
        ("0.png", "empty"),
        ("1.png", "empty"),
    ]
    assert [text for _, text in rows[22:]] == [
        f"iteration 7: {guard} (1 in a row, 1 in all); x",
        f"iteration 9: {guard} (1 in a row, 5 in all); x",
    ]
    assert more == "And 5 broken images."

    (tmp_path / "broken_images.json").write_text('[{"path": ')  # half-written
    run = read_run(tmp_path)
    assert run.broken == [] and run.left_out.total() == 1


@pytest.mark.parametrize("number", ["9" * 15, "9" * 5000, "-1"])
def test_absurd_numbers_are_no_error(tmp_path: Path, number: str) -> None:
    log = LINE(1, f"INFO - step 1/{number}") + LINE(
        1, f"INFO - Epoch(train) [{number}][1/{number}]"
    )
    run = read_run(write_run(tmp_path, 3, log, f"train_cfg = dict(max_iters={number})"))
    assert describe_state(run_state(run, NOW), NOW).startswith(("Running", "Finished"))
