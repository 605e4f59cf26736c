"""``saim-mm report`` of several runs, and while they go on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from saim_mm import api
from saim_mm.cli import main


def write_run(folder: Path, *losses: float, lr: float = 0.1, total: int = 9) -> Path:
    vis_data = folder / "20260101_000000" / "vis_data"
    vis_data.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(dict(loss=x, step=s)) for s, x in enumerate(losses, 1)]
    (vis_data / "scalars.json").write_text("\n".join(lines) + '\n{"loss": 1, "st')
    optimizer = f"optimizer = dict(lr={lr}, type='AdamW')"
    config = f"{optimizer}\ntrain_cfg = dict(max_iters={total})\n"
    (vis_data / "config.py").write_text(config)
    return folder


def test_several_runs_on_one_page(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", 2.0, 1.5)
    other = write_run(tmp_path / "other", 3.0, 2.5, 2.0, lr=0.2)
    out = api.report([one, other], tmp_path / "both.html")
    text = out.read_text()
    for row in (
        '<th>first loss logged</th><td class="number">2.0000</td>'
        '<td class="number">3.0000</td>',
        "<th>optimizer.lr</th><td>0.1</td><td>0.2</td>",
        "one: Running; iteration 2 of 9",
        "other: Running; iteration 3 of 9",
    ):
        assert row in text, row
    assert "optimizer.type" not in text.partition("<pre>")[0]  # it does not differ
    with pytest.raises(ValueError, match=r"work_dir=\[\]"):
        api.report([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' holds no logged loss"):
        api.report([one, tmp_path / "empty"], out)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name / "run", 1.0) for name in ("a", "b")]
    text = api.report(folders, tmp_path / "both.html").read_text()
    assert "a/run: Running" in text and "b/run: Running" in text


@pytest.mark.parametrize("arguments", [["OUT"], ["-o", "OUT"], ["--out", "OUT"]])
def test_the_file_with_and_without_an_option(tmp_path, arguments, capsys) -> None:
    folder = str(write_run(tmp_path / "run", 1.0))
    out = str(tmp_path / "page.html")
    assert main(["report", folder, *(out if a == "OUT" else a for a in arguments)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert Path(out).is_file()


def test_two_files_are_one_too_many(tmp_path: Path, capsys) -> None:
    assert main(["report", "run", "a.html", "-o", "b.html"]) == 1
    assert "a.html and --out b.html: name one file" in capsys.readouterr().err


def follow(monkeypatch, *events) -> list[str]:
    """Lets something happen in each pause of ``live``; what the page said before."""
    pages: list[str] = []

    def sleep(seconds: float) -> None:
        assert seconds > 0
        pages.append(Path("report.html").read_text())
        events[len(pages) - 1]()

    monkeypatch.setattr(time, "sleep", sleep)
    return pages


def test_live_follows_a_run_to_its_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    pages = follow(
        monkeypatch,
        lambda: write_run(run, 2.0, total=2),
        lambda: write_run(run, 2.0, 1.0, total=2),
    )
    assert api.report(run, live=True) == Path("report.html")
    assert "Not begun" in pages[0] and "iteration 1 of 2" in pages[1]
    assert all('http-equiv="refresh"' in page for page in pages) and len(pages) == 2
    text = Path("report.html").read_text()
    assert "Finished; iteration 2 of 2" in text and "refresh" not in text


def test_live_begins_before_all_runs_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [tmp_path / "late", write_run(tmp_path / "early", 2.0, total=1)]
    runs[0].mkdir()
    pages = follow(monkeypatch, lambda: write_run(runs[0], 3.0, total=1))
    api.report(runs, live=True)
    assert "late: Not begun" in pages[0] and "early: Finished" in pages[0]
    assert '<td class="number">-</td><td class="number">2.0000</td>' in pages[0]


def test_ctrl_c_leaves_a_page_that_rests(tmp_path: Path, monkeypatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    pages = follow(monkeypatch, interrupt)
    api.report(write_run(tmp_path / "run", 1.0), live=True)
    assert "refresh" in pages[0]
    assert "refresh" not in Path("report.html").read_text()


def test_live_is_no_place_for_new_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the run a PictureHook"):
        api.report(tmp_path, live=True, images=tmp_path)
    with pytest.raises(ValueError, match="interval=0"):
        api.report(tmp_path, live=True, interval=0)


def test_an_unfinished_picture_is_not_shown(tmp_path: Path) -> None:
    """A run that is being watched may be writing one just now."""
    import cv2
    import numpy as np

    run = write_run(tmp_path / "run", 1.0)
    folder = run / "20260101_000000" / "vis_data" / "vis_image"
    folder.mkdir()
    png = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    (folder / "pca layer 3_10.png").write_bytes(png)
    (folder / "pca layer 3_20.png").write_bytes(png[:-5])
    text = api.report(run, tmp_path / "report.html").read_text()
    assert "pca layer 3, iteration 10" in text
    (folder / "pca layer 3_20.png").write_bytes(png)
    text = api.report(run, tmp_path / "report.html").read_text()
    assert "pca layer 3, iteration 20" in text
