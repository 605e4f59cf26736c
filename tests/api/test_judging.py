"""kNN and the linear probe by a line: the tools' figures, a table, a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from class_folders import write_checkpoint, write_class_folders
from PIL import Image
from run_tool import run_tool

from saim_mm import api
from saim_mm.cli import main

FUNCTIONS = {"knn": api.knn, "probe": api.probe}
TOOLS = {"knn": "knn", "probe": "linear_probe"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes by colour, and in each of two one image of another colour."""
    root = write_class_folders(tmp_path / "data", train=6, judged=4)
    for name, colour in (("red", "green"), ("blue", "green")):
        lost = Image.open(root / "train" / colour / "0.png")
        lost.save(root / "val" / name / "0.png")
    write_checkpoint(tmp_path / "epoch_1.pth")
    return root


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_the_figures_are_the_tools(verb: str, data: Path, tmp_path: Path) -> None:
    encoder, out = tmp_path / "epoch_1.pth", tmp_path / "result.json"
    options = ["--k", 3, 5] if verb == "knn" else ["--epochs", 5]
    files = [encoder, data, "--workers", 0, "--out", out, "--device", "cpu"]
    assert run_tool(f"analysis_tools.{TOOLS[verb]}", *files, *options) == 0
    expected = json.loads(out.read_text())
    given: dict[str, Any] = dict(k=[3, 5]) if verb == "knn" else dict(epochs=5)
    for loaded in (False, True):
        judgement = FUNCTIONS[verb](
            api.load_encoder(encoder) if loaded else encoder,
            data,
            workers=0,
            device="cpu",
            **given,
        )
        for figures in (judgement.figures, expected):
            figures.pop("seconds_for_features", None)
        assert judgement.figures == expected


def test_named_probes_are_the_tools(data: Path, tmp_path: Path, capsys) -> None:
    encoder, out = tmp_path / "epoch_1.pth", tmp_path / "result.json"
    files = [str(encoder), str(data), "--workers", "0", "--device", "cpu"]
    named = ["--probe", "linear", "rankme", "--layer", "1"]
    assert run_tool("analysis_tools.probe", *files, *named, "--out", out) == 0
    expected = json.loads(out.read_text())
    judgement = api.probe(
        encoder, data, probes=["linear", "rankme"], layer=1, workers=0, device="cpu"
    )
    for figures in (judgement.figures, expected):
        figures.pop("seconds_for_features")
    assert judgement.figures == expected and judgement.mistakes() == []
    capsys.readouterr()
    assert main(["probe", *files, *named]) == 0
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in ("accuracy/linear_layer1", "rankme_layer1"):
        (row,) = (cells for cells in told if name in cells)
        assert float(row[3]) == pytest.approx(expected[name], rel=1e-3)


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_confusion(verb: str, data: Path, tmp_path: Path) -> None:
    """Colours tell the classes apart, but for two images of the wrong colour."""
    options: dict[str, Any] = dict(k=(1, 3)) if verb == "knn" else {}
    encoder = tmp_path / "epoch_1.pth"
    judgement = FUNCTIONS[verb](encoder, data, workers=0, **options)
    assert judgement.classes == ("blue", "green", "red")
    assert judgement.confusion.tolist() == [[3, 1, 0], [0, 4, 0], [0, 1, 3]]
    share = 100 * np.trace(judgement.confusion) / judgement.confusion.sum()
    name = "accuracy_k3" if verb == "knn" else "accuracy"
    assert judgement.figures[name] == round(share, 2)
    assert judgement.mistakes() == [("blue", "green", 1), ("red", "green", 1)]


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_a_verb_prints_a_table_and_draws(verb, data, tmp_path, capsys) -> None:
    out = tmp_path / "new" / "confusion.png"
    encoder = str(tmp_path / "epoch_1.pth")
    command = [verb, encoder, str(data), "-o", str(out), "--workers", "0"]
    assert main([*command, *(["--k", "1", "3"] if verb == "knn" else [])]) == 0
    said = capsys.readouterr()
    assert "3 classes, 18 images to learn from, 12 to judge" in said.out
    row = "accuracy, k = 3 " if verb == "knn" else " accuracy "
    assert any(row in line and "83.33" in line for line in said.out.splitlines())
    assert "1 of 'blue' taken for 'green'" in said.out
    assert f"written: {out}" in said.out
    assert said.err.splitlines()[-1] == "images: 30 of 30"
    assert mmcv.imread(out).std() > 1


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar(data, tmp_path, capsys, monkeypatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    encoder = str(tmp_path / "epoch_1.pth")
    assert main(["knn", encoder, str(data), "--k", "1", "--workers", "0"]) == 0
    assert "images" in screen.getvalue() and "30/30" in screen.getvalue()
    assert "30/30" not in capsys.readouterr().out


@pytest.mark.parametrize("verb", FUNCTIONS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(encoder="none.pth"), "no such checkpoint"),
        (dict(encoder="data/notes.txt"), "not a checkpoint"),
        (dict(folder="none"), "none: there is no such folder"),
        (dict(folder="data/train/red"), "wanted the folders train/<class>/"),
        (dict(folder="one"), "has one class; there is nothing to tell it from"),
        (dict(out="c.jpg"), "must end in .png"),
        (dict(out="epoch_1.pth/c.png"), "epoch_1.pth"),
        (dict(pool="map"), "pool='map' is unknown"),
        (dict(device="tpu9"), "device='tpu9'"),
        (dict(num_heads=3), "num_heads=3 with width 16"),
    ],
)
def test_wrong_inputs(verb: str, change, message, data: Path, tmp_path: Path) -> None:
    (data / "notes.txt").write_text("no encoder")
    for part in ("train", "val"):
        Image.new("RGB", (8, 8)).save(_made(tmp_path / "one" / part / "x" / "0.png"))
    given = dict(encoder="epoch_1.pth", folder="data", workers=0) | change
    for name in {"encoder", "folder", "out"} & set(given):
        given[name] = tmp_path / str(given[name])
    with pytest.raises((ValueError, OSError), match=message):
        FUNCTIONS[verb](**given)


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("knn", dict(k=(99,)), "k=99 must be at least 1 and at most 18"),
        ("knn", dict(k=()), "There is no k"),
        ("knn", dict(temperature=0), "temperature=0"),
        ("probe", dict(epochs=0), "epochs=0 must be positive"),
        ("probe", dict(base_lr=-1), "base_lr=-1"),
        ("probe", dict(layer=1), "layer=1 is of named probes; name them"),
        ("probe", dict(probes=["svm"]), "probe 'svm' is unknown; choose of"),
        ("probe", dict(probes=["knn"], epochs=3), "drop either probes, or out"),
        ("probe", dict(probes=["knn"], out="a.png"), "draw nothing"),
        ("probe", dict(probes=["linear"], layer=9), "layer=9 is out of range"),
        ("probe", dict(probes=["attentive"], layer=1), "one vector per image"),
    ],
)
def test_options_of_a_verb(verb, options, message, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[verb](tmp_path / "epoch_1.pth", data, workers=0, **options)


def test_votes_are_checked_before_any_image_is_read(data, tmp_path) -> None:
    (data / "train/red/0.png").write_text("<html>")  # would be the first error
    encoder = tmp_path / "epoch_1.pth"
    for options, told in ((dict(k=(1, 19)), "k=19"), (dict(temperature=0), "temper")):
        with pytest.raises(ValueError, match=told):
            api.knn(encoder, data, workers=0, **options)
    with pytest.raises(ValueError, match="needs 20 images to learn from, more than"):
        api.probe(encoder, data, probes=["rankme", "knn"], workers=0)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_a_broken_image_is_one_line(verb: str, data, tmp_path, capsys) -> None:
    (data / "val/red/1.png").write_text("<html>")
    encoder = str(tmp_path / "epoch_1.pth")
    options = ["--k", "1"] if verb == "knn" else []
    assert main([verb, encoder, str(data), "--workers", "1", *options]) == 1
    (line,) = (x for x in capsys.readouterr().err.splitlines() if "error: " in x)
    assert "red/1.png" in line and line.endswith("mend or remove this image")
