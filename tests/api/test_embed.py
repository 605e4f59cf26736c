"""Features in a file: whose they are, in what order, and nothing lost by a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_folders import write_checkpoint
from mmpretrain.registry import MODELS
from PIL import Image
from sources import write_as
from tiny import tiny_backbone

from saim_mm import api
from saim_mm.api.embed import Embedding
from saim_mm.cli import main
from saim_mm.evaluation import embedding_parts
from saim_mm.evaluation.frozen_encoder import FrozenEncoder
from saim_mm.weights import write_state_dict

NAMES = [
    "B.png",
    "a/0.png",
    "a/1.png",
    "a/10.png",
    "a/2.png",
    "b c/\u00e9.png",
    "z.png",
]


def write_images(folder: Path, names: list[str]) -> Path:
    """Noise that depends on the name, 40 to 60 pixels high and 50 wide."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        seed = sum(map(ord, name))
        noise = np.random.default_rng(seed).integers(0, 256, (40 + seed % 20, 50, 3))
        Image.fromarray(noise.astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "photos", NAMES)


@pytest.fixture
def encoder(tmp_path: Path) -> FrozenEncoder:
    write_checkpoint(tmp_path / "epoch_1.pth")
    return api.load_encoder(tmp_path / "epoch_1.pth")


def read(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    return {**found, "about": json.loads(str(found["about"]))}


@pytest.mark.parametrize("options", [{}, dict(pool="cls"), dict(layer=1)])
def test_a_row_is_the_features_of_its_image(options, encoder, folder, tmp_path) -> None:
    done = api.embed(
        encoder, folder, tmp_path / "out.npz", batch_size=3, workers=0, **options
    )
    assert done == Embedding(tmp_path / "out.npz", len(NAMES), 16, {})
    found = read(tmp_path / "out.npz")
    assert found["names"].tolist() == sorted(NAMES)
    assert found["features"].dtype == np.float32
    columns = (found[k] for k in ("names", "features", "sizes"))
    for name, row, size in zip(*columns, strict=True):
        expected = encoder.features(encoder.transform(folder / name), **options)
        np.testing.assert_allclose(row, expected[0].numpy(), atol=2e-6)
        with Image.open(folder / name) as image:
            assert (image.height, image.width) == tuple(size)
    about = found["about"]
    assert about["encoder_sha256"] == encoder.identity()["encoder_sha256"]
    assert about["pool"] == options.get("pool", "avg")
    assert about["layer"] == options.get("layer", 3)
    assert (about["images"], about["rows"], about["broken"]) == (7, 7, {})
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("kind", ["WebDatasetImages", "HuggingFaceImages"])
def test_shards_and_datasets(
    kind: str, encoder: FrozenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features of the folder, and names that stay if the data is moved."""
    flat = write_images(tmp_path / "flat", ["0.png", "1.png", "2.png"])
    data = write_as(kind, flat, tmp_path / "data")
    monkeypatch.chdir(data)
    found = []
    for number, folder in enumerate((flat, data, ".")):
        api.embed(encoder, folder, tmp_path / f"{number}.npz", workers=0)
        found.append(np.load(tmp_path / f"{number}.npz"))
    for other in found[1:]:
        np.testing.assert_array_equal(other["features"], found[0]["features"])
        np.testing.assert_array_equal(other["sizes"], found[0]["sizes"])
        names = other["names"].tolist()
        if kind == "HuggingFaceImages":
            assert names == ["0/image", "1/image", "2/image"]
        else:
            assert [name.split("/")[1] for name in names] == found[0]["names"].tolist()
            assert {name.split("#")[0] for name in names} == {"00000.tar"}


def test_parquet_holds_the_same(encoder, folder, tmp_path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    from pyarrow import parquet

    for name in ("out.npz", "out.parquet"):
        api.embed(encoder, folder, tmp_path / name, batch_size=4, workers=0)
    table, expected = (
        parquet.read_table(tmp_path / "out.parquet"),
        read(tmp_path / "out.npz"),
    )
    assert table["name"].to_pylist() == expected["names"].tolist()
    rows = np.stack(table["features"].to_numpy())
    assert np.array_equal(rows, expected["features"])
    sizes = np.stack([table[k].to_numpy() for k in ("rows", "columns")], axis=1)
    assert np.array_equal(sizes, expected["sizes"])
    assert json.loads(table.schema.metadata[b"about"]) == expected["about"]


def test_parquet_without_its_library(encoder, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="'pip install pyarrow', or write .npz"):
        api.embed(encoder, folder, tmp_path / "out.parquet")
    assert not list(tmp_path.glob("*.parts"))


def test_neither_order_nor_batches_nor_workers_matter(
    encoder, folder, tmp_path
) -> None:
    other = write_images(tmp_path / "again", NAMES[::-1])
    api.embed(encoder, folder, tmp_path / "0.npz", batch_size=3, workers=0)
    api.embed(encoder, other, tmp_path / "1.npz", batch_size=3, workers=2)
    api.embed(encoder, folder, tmp_path / "2.npz", batch_size=50, workers=1)
    first, second, third = (read(tmp_path / f"{n}.npz") for n in range(3))
    for found in (second, third):
        assert found["names"].tolist() == first["names"].tolist()
        assert np.array_equal(found["sizes"], first["sizes"])
    assert np.array_equal(second["features"], first["features"])
    np.testing.assert_allclose(third["features"], first["features"], atol=2e-6)


class Stopped(Exception):
    """In place of a kill."""


def stop_after(images: int):
    def progress(done: int, total: int) -> None:
        assert total == len(NAMES)
        if done >= images:
            raise Stopped

    return progress


@pytest.mark.parametrize("seconds", [0, 1e6])
def test_it_goes_on_where_it_was(
    seconds, encoder, folder, tmp_path, monkeypatch
) -> None:
    """Bit for bit, and no image is looked at twice; also after a second stop."""
    monkeypatch.setattr(embedding_parts, "SECONDS", seconds)
    options: dict[str, Any] = dict(batch_size=2, workers=0)
    api.embed(encoder, folder, tmp_path / "whole.npz", **options)
    out = tmp_path / "out.npz"
    for images in (2, 4):
        with pytest.raises(Stopped):
            api.embed(encoder, folder, out, progress=stop_after(images), **options)
        assert not out.exists()
    seen: list[int] = []
    api.embed(encoder, folder, out, progress=lambda n, _: seen.append(n), **options)
    assert seen == [6, 7]
    assert_same(read(out), read(tmp_path / "whole.npz"))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.pop("about") == expected.pop("about")
    for name, array in expected.items():
        assert np.array_equal(found[name], array), name


def test_another_encoder_setting_or_folder_is_refused(
    encoder, folder, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "out.npz"
    options: dict[str, Any] = dict(batch_size=2, workers=0)
    with pytest.raises(Stopped):
        api.embed(encoder, folder, out, progress=stop_after(4), **options)
    for changed, said in (
        (dict(pool="cls"), "pool: 'avg', now 'cls'"),
        (dict(layer=0), "layer: 3, now 0"),
        (dict(crop_ratio=1), "crop_ratio: 0.875, now 1"),
    ):
        with pytest.raises(ValueError, match=f"{said}.*Remove that folder"):
            api.embed(encoder, folder, out, **options, **changed)
    with torch.no_grad():
        encoder.backbone.cls_token += 1
    with pytest.raises(ValueError, match="encoder_sha256: '"):
        api.embed(encoder, folder, out, **options)
    with torch.no_grad():
        encoder.backbone.cls_token -= 1
    write_images(folder, ["new.png"])
    with pytest.raises(ValueError, match="images: 7, now 8"):
        api.embed(encoder, folder, out, **options)
    shutil.rmtree(tmp_path / "out.npz.parts")
    assert api.embed(encoder, folder, out, **options).rows == 8


def test_a_damaged_part_is_named_and_may_be_removed(
    encoder, folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(embedding_parts, "SECONDS", 0)
    options: dict[str, Any] = dict(batch_size=2, workers=0)
    api.embed(encoder, folder, tmp_path / "whole.npz", **options)
    out = tmp_path / "out.npz"
    with pytest.raises(Stopped):
        api.embed(encoder, folder, out, progress=stop_after(6), **options)
    part = sorted(tmp_path.glob("out.npz.parts/*.npz"))[1]
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"{part.name}: damaged.*remove it"):
        api.embed(encoder, folder, out, **options)
    part.unlink()
    api.embed(encoder, folder, out, **options)
    assert_same(read(out), read(tmp_path / "whole.npz"))


def test_a_part_that_vanishes_is_no_row_of_rubbish(
    encoder, folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(embedding_parts, "SECONDS", 0)

    def progress(done: int, total: int) -> None:
        if done == 6:
            next(tmp_path.glob("out.npz.parts/*2-*4.npz")).unlink()

    out = tmp_path / "out.npz"
    with pytest.raises(ValueError, match="the part from 2 on is gone"):
        api.embed(encoder, folder, out, batch_size=2, workers=0, progress=progress)
    assert not out.exists()
    assert api.embed(encoder, folder, out, batch_size=2, workers=0).rows == 7


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "wb")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_runs_do_not_write_the_same_output(encoder, folder, tmp_path) -> None:
    out, parts = tmp_path / "out.npz", tmp_path / "out.npz.parts"
    parts.mkdir()
    command = [sys.executable, "-S", "-c", HOLD, str(parts / "lock")]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ValueError, match="another run is at work there"):
            api.embed(encoder, folder, out, workers=0)
        other.stdin.close()
    assert api.embed(encoder, folder, out, workers=0).rows == 7


def test_broken_images_are_named_and_left_out(encoder, folder, tmp_path) -> None:
    (folder / "a" / "1.png").write_text("<html>")
    done = api.embed(encoder, folder, tmp_path / "out.npz", batch_size=3, workers=0)
    assert list(done.broken) == ["a/1.png"] and done.rows == 6
    assert "truncated or no image" in done.broken["a/1.png"]
    found = read(tmp_path / "out.npz")
    assert found["names"].tolist() == sorted({*NAMES} - {"a/1.png"})
    assert found["about"]["broken"] == done.broken
    expected = encoder.features(encoder.transform(folder / "a/10.png"))
    np.testing.assert_allclose(found["features"][2], expected[0].numpy(), atol=2e-6)


def test_too_many_broken_images(encoder, folder, tmp_path) -> None:
    """As in training; what is done is kept, and more may be allowed."""
    out = tmp_path / "out.npz"
    for name in ("a/1.png", "z.png"):
        (folder / name).write_text("<html>")
    options: dict[str, Any] = dict(batch_size=2, workers=0)
    with pytest.raises(ValueError, match=r"2 of 7 images.*'z.png'.*max_broken_share"):
        api.embed(encoder, folder, out, **options)
    with pytest.raises(ValueError, match="1 of 7 images"):
        api.embed(encoder, folder, tmp_path / "0.npz", max_broken_share=0, **options)
    seen: list[int] = []
    done = api.embed(
        encoder,
        folder,
        out,
        max_broken_share=1,
        progress=lambda n, _: seen.append(n),
        **options,
    )
    assert list(done.broken) == ["a/1.png", "z.png"] and seen == [7]
    for name in NAMES:
        (folder / name).write_text("")
    with pytest.raises(ValueError, match="None of the 7 images loads"):
        api.embed(encoder, folder, tmp_path / "1.npz", max_broken_share=1, **options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(encoder="none.pth"), FileNotFoundError, "no such checkpoint"),
        (dict(encoder="photos/a.txt"), ValueError, "not a checkpoint"),
        (dict(folder="none"), FileNotFoundError, "none: there is no such folder"),
        (dict(folder="empty"), ValueError, "no image in .*empty"),
        (dict(folder="epoch_1.pth"), FileNotFoundError, "no such folder"),
        (dict(out="out.csv"), ValueError, "'.csv' names no format.*.npz or .parquet"),
        (dict(out="out"), ValueError, "'' names no format"),
        (dict(out="there.npz"), FileExistsError, "is there already; remove it"),
        (dict(out="epoch_1.pth/out.npz"), OSError, "epoch_1.pth"),
        (dict(pool="map"), ValueError, "pool='map' is unknown"),
        (dict(layer=4), ValueError, "layer=4 is out of range"),
        (dict(crop_ratio=0), ValueError, "crop_ratio=0"),
        (dict(max_broken_share=2), ValueError, "max_broken_share=2"),
        (dict(batch_size=0), ValueError, "batch_size=0"),
        (dict(workers=-1), ValueError, "workers=-1"),
        (dict(device="tpu9"), ValueError, "device='tpu9'"),
        (dict(num_heads=3), ValueError, "num_heads=3 with width 16"),
    ],
)
def test_wrong_inputs(change, error, message, encoder, folder, tmp_path) -> None:
    (folder / "a.txt").write_text("no encoder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.npz").touch()
    given = dict(encoder="epoch_1.pth", folder="photos", out="out.npz", workers=0)
    given |= change
    for name in ("encoder", "folder", "out"):
        given[name] = tmp_path / str(given[name])
    with pytest.raises(error, match=message):
        api.embed(**given)
    assert not (tmp_path / "out.npz").exists()
    assert not (tmp_path / "out.npz.parts").exists()


def test_options_of_a_file_do_not_fit_what_is_loaded(encoder, folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="the encoder is loaded"):
        api.embed(encoder, folder, tmp_path / "out.npz", num_heads=2)


KILLED = """
import os, signal, sys
from saim_mm import api
from saim_mm.api.embed import Embedding
from saim_mm.cli import main
from saim_mm.evaluation import embedding_parts
embedding_parts.SECONDS = 0
def progress(done, total):
    if done >= 4:
        os.kill(os.getpid(), signal.SIGKILL)
api.embed(*sys.argv[1:4], batch_size=2, workers=1, progress=progress)
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing(encoder, folder, tmp_path) -> None:
    options: dict[str, Any] = dict(batch_size=2, workers=1)
    api.embed(encoder, folder, tmp_path / "whole.npz", **options)
    out = tmp_path / "out.npz"
    command = [sys.executable, "-c", KILLED, encoder.source, str(folder), str(out)]
    for stop in ("4", "6"):  # each run does what it was not killed in
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == -signal.SIGKILL
        assert max(p.stem[-1] for p in tmp_path.glob("out.npz.parts/0*")) == stop
    api.embed(encoder, folder, out, **options)
    assert_same(read(out), read(tmp_path / "whole.npz"))


def test_the_verb_says_what_was_written_and_left_out(
    encoder, folder, tmp_path, capsys
) -> None:
    (folder / "a" / "1.png").write_text("<html>")
    command = ["embed", encoder.source, str(folder), "-o", str(tmp_path / "x.npz")]
    assert main([*command, "--workers", "0", "--layer", "0"]) == 0
    said = capsys.readouterr()
    assert f"written: {tmp_path / 'x.npz'}, 6 rows of 16 channels" in said.out
    assert "left out: 1 image that does not load\n  'a/1.png': " in said.out
    assert said.err.splitlines()[-1] == "images: 7 of 7"
    assert read(tmp_path / "x.npz")["about"]["layer"] == 0
    assert main(command) == 1
    assert "x.npz: is there already" in capsys.readouterr().err


def test_no_class_token_to_take(folder, tmp_path) -> None:
    options = tiny_backbone((32, 32), (8, 8), with_cls_token=False)
    write_state_dict(tmp_path / "aim.pth", MODELS.build(options).state_dict())
    given: dict[str, Any] = dict(num_heads=2, workers=0)
    with pytest.raises(ValueError, match="with_cls_token=False; use pool='avg'"):
        api.embed(tmp_path / "aim.pth", folder, tmp_path / "x.npz", pool="cls", **given)
    assert (
        api.embed(tmp_path / "aim.pth", folder, tmp_path / "x.npz", **given).rows == 7
    )
