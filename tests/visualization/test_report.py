"""The report of a run: everything is in it, and nothing in it can run."""

from __future__ import annotations

import base64
import json
import os
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


def test_the_times_of_validations_are_not_those_of_training(tmp_path: Path) -> None:
    """Fine-tuning counts iterations in training and epochs in validation."""
    records = [
        dict(lr=1e-3, loss=2.0, time=0.5, data_time=0.1, epoch=1, iter=4, step=4),
        {"accuracy/top1": 20.0, "time": 0.1, "data_time": 0.0, "step": 1},
        dict(lr=1e-3, loss=1.0, time=0.6, data_time=0.1, epoch=2, iter=8, step=8),
        {"accuracy/top1": 30.0, "time": 0.1, "data_time": 0.0, "step": 2},
    ]
    write_start(tmp_path, "20250101_000000", records)
    scalars = read_scalars(tmp_path)
    for name in ("time", "data_time"):
        assert scalars[name].steps.tolist() == [4, 8]
    assert scalars["time"].values.tolist() == [0.5, 0.6]
    assert scalars["accuracy/top1"].steps.tolist() == [1, 2]


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


def test_nothing_of_several_runs_can_run(tmp_path: Path) -> None:
    """Names, options, warnings, reasons and pictures are a stranger's texts."""
    folders = [tmp_path / f"{number} <script>" for number in (1, 2)]
    for number, folder in enumerate(folders):
        vis_data = write_start(folder, "2025", [{"loss": 1, EVIL: 2, "step": 1}])
        write_start(folder, "2026 <script>", [{"loss": 1, "step": 2}])
        (vis_data / "config.py").write_text(f"a = {{{EVIL!r}: {EVIL + str(number)!r}}}")
        said = "2026/01/01 00:00:00 - mmengine - "
        (folder / "2025" / "a.log").write_text(
            f"{said}INFO - step 1/9\n{said}WARNING - {EVIL}\n"
            f"{said}INFO - {EVIL.split('/')[0]}: saved {EVIL}\n"
        )
        broken = [dict(path=EVIL, reason=EVIL)]
        (folder / "broken_images.json").write_text(json.dumps(broken))
        picture = vis_data / "vis_image" / '"><script>_1.png'
        save_png(np.zeros((4, 5, 3), np.uint8), picture)
    bare = tmp_path / "3 <script>"  # of which nothing is known but a loss
    write_start(bare, "2025", [{"loss": 1, "step": 1}])
    write_report([*folders, bare], tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    # As warning, reason and path, why it stopped, option and its value, name of a plot.
    assert page.text.count(EVIL) >= 2 * 5
    assert "<script>, iteration 1" in page.text and "2026 <script>" in page.text


def test_a_bare_run_has_a_report_too(tmp_path: Path) -> None:
    write_start(tmp_path / "run", "20250101_000000", [dict(loss=1.0, step=1)])
    write_report(tmp_path / "run", tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    for part in ("None: no PictureHook", "None was logged", "No config", "No log"):
        assert part in text
    with pytest.raises(ValueError, match="no logged loss"):
        write_report(tmp_path / "nothing", tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


SECRET = "what the reader alone may see"


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_no_link_puts_another_file_into_the_page(tmp_path: Path) -> None:
    """A run may be a stranger's, and the page may go back to him."""
    secret = tmp_path / "secret.txt"
    secret.write_text(
        f"\nSystem environment:\n{SECRET}\n{'-' * 60}\n"
        + json.dumps({"x": 1, "step": 1})
    )
    picture = np.full((4, 5, 3), 77, np.uint8)
    save_png(picture, tmp_path / "secret.png")
    other = write_start(tmp_path / "other", "2027", [{SECRET: 1.0, "step": 1}])
    (other / "config.py").write_text(f"{SECRET!r}")

    run = tmp_path / "run"
    write_start(run, "2025", [dict(loss=1.0, step=1)])
    for target in (secret, Path("../../../secret.txt")):
        start = "absolute" if target.is_absolute() else "relative"
        for name in ("scalars.json", "config.py"):
            link(run / start / "vis_data" / name, target)
        link(run / start / "a.log", secret)
    link(run / "2026", tmp_path / "other" / "2027")  # a whole start
    link(run / "2028" / "vis_data", other)
    images = run / "2025" / "vis_data" / "vis_image"
    link(images / "reconstruction_3.png", tmp_path / "secret.png")
    link(images / "loss_by_step_3.png", secret)

    write_report(run, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert SECRET not in text and "No config" in text and "No log" in text
    assert len(re.findall("base64,", text)) == 1  # the curve
    assert read_scalars(run).keys() == {"loss"}

    link(tmp_path / "linked run", run)  # by the reader himself
    assert read_scalars(tmp_path / "linked run").keys() == {"loss"}


def test_nothing_waits_for_a_pipe_or_fills_memory_from_a_device(tmp_path: Path) -> None:
    vis_data = write_start(tmp_path, "2025", [dict(loss=1.0, step=1)])
    for name in ("config.py", "scalars.json"):
        (tmp_path / "2026" / "vis_data").mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / "2026" / "vis_data" / name)
    os.mkfifo(tmp_path / "2026" / "a.log")
    link(tmp_path / "2027" / "vis_data" / "scalars.json", Path("/dev/zero"))
    (vis_data / "vis_image").mkdir()
    os.mkfifo(vis_data / "vis_image" / "reconstruction_1.png")
    write_report(tmp_path, tmp_path / "report.html")
    assert "No config" in (tmp_path / "report.html").read_text()


def test_odd_values_are_text(tmp_path: Path) -> None:
    vis_data = write_start(
        tmp_path, "2025", [dict(loss=float(s), step=s) for s in (1, 2)]
    )
    name = "$\\\\frac{$"  # as JSON: no formula of matplotlib's
    lines = [
        f'{{"{name}": 1, "step": 3}}',
        '{"\\ud800\\u0000\\n": 1, "step": 3}',
        f'{{"of 400 digits": {"9" * 400}, "step": 3}}',
        f'{{"of 5000 digits": {"9" * 5000}, "step": 3}}',
        '{"largest": 1.7e308, "step": 3}',
        '{"none": NaN, "step": 3}',
        '{"text": "text", "loss": Infinity, "step": 3}',
        *(f'{{"loss": 1, "step": {s}}}' for s in ("NaN", "1e400", "9" * 5000, "null")),
        "[" * 100_000,
        '{"a":' * 100_000,
        "[1, 2]",
        '"step"',
    ]
    content = "\n".join(lines).encode() + b'\n\xff\xfe{\n{"\xff": 1, "step": 3}\n'
    content += b'{"loss": 5, "step": 4}\n'
    (vis_data / "scalars.json").write_bytes(content)
    scalars = read_scalars(tmp_path)
    assert scalars["loss"].steps.tolist() == [3, 4]
    assert scalars["loss"].values.tolist() == [np.inf, 5]
    assert {"$\\frac{$", "\ufffd", "\ud800\x00\n"} <= scalars.keys()
    assert scalars["of 5000 digits"].values.tolist() == [np.inf]

    write_report(tmp_path, tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    for row in (
        "line without a step9",
        "value that is no number1",
        "of 400 digits1 of 1, the last inf",
        "largest1 of 1, the last 1.7e+308",
        "none1 of 1, the last nan",
        "loss1 of 2, the last inf",
    ):
        assert row in text, row


@pytest.mark.slow
def test_much_is_bounded_and_said(tmp_path: Path) -> None:
    names = {f"{i:05d}{'x' * 200}": 1.0 for i in range(3000)}
    records = [{**names, "step": 1}] + [{"loss": 1.0, "step": s} for s in range(100)]
    records.append({"long" * 300_000: 1.0, "step": 1})
    records.append({f"accuracy/{i}": 50.0 for i in range(9000)} | {"step": 1})
    vis_data = write_start(tmp_path, "2025", records)
    (vis_data / "config.py").write_text("#" * 5_000_000)
    (tmp_path / "2025" / "a.log").write_text("System environment:\n" * 200_000)
    write_report(tmp_path, tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    # 3,001 and 6,999 of the 9,000 fill the 10,000 names; all but 60 are not drawn.
    for row in (
        "value of a name after the first 10,0002,001",
        "name that is not drawn, as there are more than 609,939",
        "line without a step1",
        "And 6,899 more.",
        "... and more than 1,048,576 bytes",
    ):
        assert row in text, row
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_stacked_pictures_are_centred() -> None:
    wide, narrow = np.zeros((2, 5, 3), np.uint8), np.zeros((1, 2, 3), np.uint8)
    found = stack([wide, narrow])
    assert found.shape == (3, 5, 3)
    assert found[2, :, 0].tolist() == [255, 0, 0, 255, 255]
