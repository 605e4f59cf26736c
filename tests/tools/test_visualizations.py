"""The picture tools, run in this process on a tiny model and made-up photographs."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from run_tool import run_tool
from tiny import tiny_config, tiny_saim

SIZE = dict(image_size=(16, 16), patch_size=(4, 4))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Config, checkpoint and a folder of two images."""
    config, checkpoint = tmp_path / "config.py", tmp_path / "iter_1.pth"
    write_model(config, checkpoint)
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    return [str(config), str(checkpoint), str(tmp_path / "photos")]


def write_model(config: Path, checkpoint: Path, **options) -> None:
    config.write_text(f"model = {tiny_config(**SIZE, **options)!r}\n")
    torch.save(dict(state_dict=tiny_saim(**SIZE, **options).state_dict()), checkpoint)


@pytest.fixture
def tool(capsys: pytest.CaptureFixture):
    """Runs a tool; returns its exit status and what it printed."""

    def run(name: str, *arguments: str) -> tuple[int, str]:
        device = [] if name == "order_masks" else ["--device=cpu"]
        code = run_tool(f"visualizations.{name}", *arguments, *device)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert len(np.unique(image @ np.array([1, 256, 65536]))) > 20  # colours
    return image


@pytest.mark.slow
def test_reconstruction(tool, files, tmp_path) -> None:
    out = tmp_path / "out.png"
    code, text = tool("reconstruction", *files, "--out", out)
    assert (code, text.strip()) == (0, str(out))
    assert picture(out).shape[0] > 800  # the sheet and the curve


@pytest.mark.slow
def test_attention_of_two_models(tool, files, tmp_path) -> None:
    raster = [tmp_path / "raster.py", tmp_path / "raster.pth"]
    write_model(*raster, order="raster")
    out = tmp_path / "out.png"
    points = ["--points", "0.5,0.5", "3,12"]
    code, text = tool("attention", *files, *points, "--raster", *raster, "--out", out)
    assert code == 0, text
    width = picture(out).shape[1]
    assert width == pytest.approx(5 * 1.66 * 160, abs=2)


@pytest.mark.slow
def test_feature_maps(tool, files, tmp_path) -> None:
    out = tmp_path / "out.png"
    code, text = tool("feature_maps", *files, "--out", out)
    assert (code, text.strip()) == (0, str(out))
    plain = picture(out)
    assert plain.shape[1] == pytest.approx(4 * 1.66 * 160, abs=2)
    arguments = ["--layers", "0", "1", "-1", "--subtract-position", "--out", out]
    code, text = tool("feature_maps", *files, *arguments)
    assert code == 0, text
    assert picture(out).shape[1] == pytest.approx(5 * 1.66 * 160, abs=2)
    code, text = tool("feature_maps", *files, "--layers", "4")
    assert (code, "layer 4 is none of the 4" in text) == (1, True)


def test_attention_points(tool, files, tmp_path) -> None:
    to_shares = import_module("tools.visualizations.attention").to_shares
    assert to_shares(("0.25", "0.5"), (8, 12)) == (0.25, 0.5)
    assert to_shares(("3", "7"), (8, 12)) == pytest.approx((3.5 / 12, 7.5 / 8))
    out = tmp_path / "out.png"
    code, text = tool("attention", *files, "--points", "16,0", "--out", out)
    assert (code, "outside" in text) == (1, True)
    code, text = tool("attention", *files, "--points", "here")
    assert (code, "no point" in text) == (2, True)


def test_click_needs_a_display(tool, files, tmp_path) -> None:
    import matplotlib

    matplotlib.use("agg")
    code, text = tool("attention", *files, "--click", "--out", tmp_path / "out.png")
    assert (code, "needs a display" in text) == (1, True)


def test_order_masks(tool, tmp_path) -> None:
    out = tmp_path / "out.png"
    arguments = ["--grid", "2", "4", "--order", "segments", "--segment-size", "2", "2"]
    code, text = tool("order_masks", *arguments, "--out", out)
    assert code == 0, text
    picture(out)
    code, text = tool("order_masks", "--grid", "0", "3")
    assert (code, "--grid 0 3" in text) == (1, True)


@pytest.mark.slow
def test_completion(tool, files, tmp_path) -> None:
    sheet, gif, mask = (tmp_path / name for name in ("a.png", "b.gif", "mask.png"))
    drawing = np.zeros((8, 8), np.uint8)
    drawing[:, :4] = 255
    Image.fromarray(drawing).save(mask)
    box = ["--keep-box", "0,0,1,0.5", "--true-statistics", "--steps", "1"]
    code, text = tool("completion", *files, *box, "--out", sheet)
    assert code == 0, text
    assert picture(sheet).shape[1] == pytest.approx(3 * 1.66 * 160, abs=2)
    drawn = ["--keep-mask", mask, "--invert"]
    code, text = tool("completion", *files, *drawn, "--out", gif)
    assert code == 0, text
    with Image.open(gif) as image:
        assert image.n_frames == 9  # 8 of 16 patches are hidden
    for arguments, message in (
        (["--out", tmp_path / "c.jpg"], "must end in .png or .gif"),
        (["--keep-share", "0"], "No patch is kept"),
        (["--keep-share", "0.5", "--steps", "0"], "steps=0"),
    ):
        code, text = tool("completion", *files, *arguments)
        assert (code, message in text) == (1, True), text


@pytest.mark.slow
def test_report(tool, files, tmp_path) -> None:
    config, checkpoint, photos = files
    work_dir = tmp_path / "run"
    vis_data = work_dir / "20250101_000000" / "vis_data"
    vis_data.mkdir(parents=True)
    (vis_data / "config.py").write_text(Path(config).read_text())
    (vis_data / "scalars.json").write_text(json.dumps(dict(loss=1.0, step=1)))
    out = tmp_path / "report.html"
    code, text = tool("report", work_dir, "--images", photos, "--out", out)
    assert (code, "holds no checkpoint" in text) == (1, True)
    Path(checkpoint).rename(work_dir / "iter_1.pth")
    code, text = tool("report", work_dir, "--images", photos, "--out", out)
    assert code == 0, text
    assert "iter_1.pth" in out.read_text()
    code, text = tool("report", tmp_path / "none", "--out", out)
    assert (code, "no such work dir" in text) == (1, True)


def test_a_checkpoint_of_another_model_is_one_line(tool, files, tmp_path) -> None:
    other = tmp_path / "other.pth"
    write_model(tmp_path / "other.py", other, depth=2)
    code, text = tool("completion", files[0], other, files[2])
    assert (code, text.count("\n")) == (1, 1)
    assert "not a checkpoint of this SAIM" in text
