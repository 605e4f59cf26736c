"""The report of a run: everything is in it, and nothing in it can run."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from saim_mm.visualization import read_scalars, save_png, stack, write_report

EVIL = "<script>alert('x')</script>"


def write_start(work_dir: Path, start: str, records: list[dict]) -> Path:
    vis_data = work_dir / start / "vis_data"
    vis_data.mkdir(parents=True)
    lines = "\n".join(map(json.dumps, records))
    (vis_data / "scalars.json").write_text(f'{lines}\n{{"loss": 1, "st')
    return vis_data


def test_scalars_of_a_resumed_run(tmp_path: Path) -> None:
    write_start(
        tmp_path,
        "20250101_000000",
        [dict(loss=s, time=0.1, step=s) for s in (1, 2, 3)]
        + [{"accuracy/knn": 10, "step": 1}, dict(note="text", ok=True, step=2)],
    )
    write_start(
        tmp_path,
        "20250102_000000",
        [dict(loss=10 * s, step=s, iter=s, epoch=0) for s in (3, 4)]
        + [{"accuracy/knn": 20, "step": 2}],
    )
    scalars = read_scalars(tmp_path)
    assert scalars.keys() == {"loss", "time", "accuracy/knn"}
    assert scalars["loss"].steps.tolist() == [1, 2, 3, 4]
    assert scalars["loss"].values.tolist() == [1, 2, 30, 40]
    assert scalars["accuracy/knn"].values.tolist() == [10, 20]
    assert read_scalars(tmp_path / "nothing") == {}


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data) -> None:
        self.text += data


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run <b>"
    vis_data = write_start(
        folder,
        "20250101_000000",
        [dict(loss=1 / s, lr=0.1, step=s) for s in (1, 2, 3)]
        + [{f"accuracy/{EVIL}": v, "step": i} for i, v in enumerate((10.0, 30.5, 20))],
    )
    (vis_data / "config.py").write_text(f"name = {EVIL!r}\nraise SystemExit\n")
    for step, colour in ((2, 90), (10, 200)):
        picture = np.full((4, 5, 3), colour, np.uint8)
        save_png(picture, vis_data / "vis_image" / f"reconstruction_{step}.png")
    line = "-" * 60
    (folder / "20250101_000000" / "20250101_000000.log").write_text(
        f"{line}\nSystem environment:\n    Python: 3.{EVIL}\n  - Build settings: X\n"
        f"Runtime environment:\n    seed: 0\n{line}\nConfig:\n"
    )
    return folder


def test_everything_is_there_and_nothing_can_run(
    work_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "report.html"
    red = np.zeros((3, 3, 3), np.uint8)
    red[..., 0] = 255
    write_report(work_dir, out, {f"mine {EVIL}": red})
    text = out.read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for part in (
        "run <b>",
        f"name = {EVIL!r}",
        f"Python: 3.{EVIL}",
        "seed: 0",
        f"accuracy/{EVIL}",
        "20.00 at 2; best 30.50 at 1",
        f"mine {EVIL}",
        "reconstruction, iteration 10",
    ):
        assert part in page.text, part
    assert "Build settings" not in page.text

    found = [
        cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        for data in re.findall(r'base64,([^"]+)"', text)
    ]
    assert len(found) == 4  # two of curves, the given one, the logged one
    assert (found[2] == (0, 0, 255)).all()  # BGR
    assert (found[3] == 200).all()


def test_a_bare_run_has_a_report_too(tmp_path: Path) -> None:
    write_start(tmp_path / "run", "20250101_000000", [dict(loss=1.0, step=1)])
    write_report(tmp_path / "run", tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    for part in ("None: no PictureHook", "None was logged", "No config", "No log"):
        assert part in text
    with pytest.raises(ValueError, match="no logged loss"):
        write_report(tmp_path / "nothing", tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_stacked_pictures_are_centred() -> None:
    wide, narrow = np.zeros((2, 5, 3), np.uint8), np.zeros((1, 2, 3), np.uint8)
    found = stack([wide, narrow])
    assert found.shape == (3, 5, 3)
    assert found[2, :, 0].tolist() == [255, 0, 0, 255, 255]
