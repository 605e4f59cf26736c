"""Reading MMEngine's scalars, and the curve drawn from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from saim_mm.visualization import draw_loss_curve, read_loss_curve
from saim_mm.visualization.loss_curve import LossCurve, smooth


def write_scalars(work_dir: Path, start: str, losses: dict[int, float]) -> Path:
    path = work_dir / start / "vis_data" / "scalars.json"
    path.parent.mkdir(parents=True)
    lines = [
        json.dumps(dict(lr=1e-3 / step, loss=loss, iter=step, step=step))
        for step, loss in losses.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_reads_a_run(tmp_path: Path) -> None:
    path = write_scalars(tmp_path, "20250101_000000", {1: 1.5, 2: 1.25, 3: 1.0})
    for source in (tmp_path, path):
        curve = read_loss_curve(source)
        assert curve.iterations.tolist() == [1, 2, 3]
        assert curve.loss.tolist() == [1.5, 1.25, 1.0]
        assert curve.lr.tolist() == pytest.approx([1e-3, 5e-4, 1e-3 / 3])
        assert curve.first() == 1.5
        assert curve.last(2) == 1.125


def test_a_resumed_run_is_whole(tmp_path: Path) -> None:
    """It was killed after step 4 and went on from a checkpoint of step 2."""
    write_scalars(tmp_path, "20250101_000000", {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})
    write_scalars(tmp_path, "20250102_000000", {3: 30.0, 4: 40.0, 5: 50.0})
    curve = read_loss_curve(tmp_path)
    assert curve.iterations.tolist() == [1, 2, 3, 4, 5]
    assert curve.loss.tolist() == [1.0, 2.0, 30.0, 40.0, 50.0]


def test_the_latest_of_several_runs_counts(tmp_path: Path) -> None:
    write_scalars(tmp_path, "20250101_000000", {1: 1.0, 2: 2.0, 3: 3.0})
    write_scalars(tmp_path, "20250102_000000", {1: 10.0, 2: 20.0})
    assert read_loss_curve(tmp_path).loss.tolist() == [10.0, 20.0]


def test_other_records_and_cut_lines_are_left_out(tmp_path: Path) -> None:
    path = write_scalars(tmp_path, "20250101_000000", {1: 1.0, 2: 2.0})
    with path.open("a") as file:
        file.write('{"accuracy/top1": 50.0, "step": 1}\n{"loss": 3.0, "st')
    assert read_loss_curve(tmp_path).loss.tolist() == [1.0, 2.0]


def test_no_log_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LocalVisBackend"):
        read_loss_curve(tmp_path)


def test_smoothing() -> None:
    spike = np.zeros(9)
    spike[4] = 3.0
    assert np.allclose(smooth(spike, 3), [0, 0, 0, 1, 1, 1, 0, 0, 0])
    assert np.allclose(smooth(spike, 1), spike)
    line = np.linspace(3.0, 1.0, 21)
    assert np.allclose(smooth(line, 7)[:-3], line[:-3])  # a centred mean
    assert smooth(line, 7)[-1] == pytest.approx(line[-4:].mean())
    with pytest.raises(ValueError, match="window=0"):
        smooth(spike, 0)


@pytest.mark.parametrize("length", [1, 2, 500])
def test_draws_runs_of_any_length(length: int) -> None:
    steps = np.arange(1, length + 1)
    picture = draw_loss_curve(LossCurve(steps, 1.0 / steps, 1e-3 / steps))
    assert picture.dtype == np.uint8
    assert picture.shape == (720, 1120, 3)


def test_draws_a_run_without_a_learning_rate() -> None:
    steps = np.arange(1, 4)
    draw_loss_curve(LossCurve(steps, steps * 1.0, np.full(3, np.nan)))


def test_a_line_without_a_learning_rate_has_none(tmp_path: Path) -> None:
    path = write_scalars(tmp_path, "20250101_000000", {1: 1.0, 2: 2.0})
    path.write_text('{"loss": 3.0, "step": 0}\n' + path.read_text())
    curve = read_loss_curve(tmp_path)
    assert curve.loss.tolist() == [3.0, 1.0, 2.0]
    assert np.isnan(curve.lr[0])
    assert curve.lr[1:].tolist() == pytest.approx([1e-3, 5e-4])
