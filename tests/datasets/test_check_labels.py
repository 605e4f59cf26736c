"""Bad label maps: one error that names the file and what is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saim_mm.datasets.check_labels import CheckLabels, LabelMapError


def write(path: Path, labels: np.ndarray) -> str:
    Image.fromarray(labels).save(path)
    return str(path)


def check(path: str, reduce_zero_label: bool = True) -> dict:
    results = dict(seg_map_path=path, reduce_zero_label=reduce_zero_label)
    return CheckLabels(num_classes=150)(results)


@pytest.mark.parametrize(("reduce", "highest"), [(True, 150), (False, 149)])
def test_ids_up_to_the_last_class_pass(
    tmp_path: Path, reduce: bool, highest: int
) -> None:
    labels = np.array([[0, 1, highest, 255]], np.uint8)
    path = write(tmp_path / "a.png", labels)
    results = check(path, reduce)
    assert results == dict(seg_map_path=path, reduce_zero_label=reduce)
    path = write(tmp_path / "b.png", np.array([[0, highest + 1]], np.uint8))
    with pytest.raises(LabelMapError, match=f"label id {highest + 1} .*num_classes"):
        check(path, reduce)


def test_without_labels_there_is_nothing_to_check() -> None:
    assert CheckLabels(num_classes=2)(dict(img_path="a.jpg")) == dict(img_path="a.jpg")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        # mmseg would read it as 300 - 256 = 44, a class
        (np.full((2, 3), 300, np.uint16), "label id 300"),
        (np.zeros((2, 4, 3), np.uint8), "shape .2, 4, 3.*one channel"),
    ],
    ids=["more than 8 bits", "colours"],
)
def test_what_mmseg_would_misread(
    tmp_path: Path, labels: np.ndarray, message: str
) -> None:
    path = write(tmp_path / "a.png", labels)
    with pytest.raises(LabelMapError, match=message) as error:
        check(path)
    assert path in str(error.value)
    assert "seg_map_path" in str(error.value)


def png() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 150, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "empty file"),
        (png()[:500], "cannot be decoded"),
        (b"not a png", "cannot be decoded"),
    ],
    ids=["missing", "empty", "truncated", "no image"],
)
def test_broken_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelMapError, match=message) as error:
        check(str(path))
    assert str(path) in str(error.value)
    assert "seg_map_path" in str(error.value)


def test_number_of_classes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="num_classes=0"):
        CheckLabels(num_classes=0)
