"""Bad label maps: one error that names the file and what is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saim_mm.datasets import check_labels
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
    with pytest.raises(ValueError, match="max_empty=0"):
        CheckLabels(num_classes=2, max_empty=0)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged as a warning."""
    found: list[str] = []
    monkeypatch.setattr(check_labels, "warn", found.append)
    return found


@pytest.mark.parametrize(
    ("ids", "options"),
    [
        ([0], dict(reduce_zero_label=True)),
        ([0, 255], dict(reduce_zero_label=True)),
        ([0, 255], dict(reduce_zero_label=False)),
        ([255], dict(reduce_zero_label=False)),
        # Classes that the dataset leaves out.
        ([1, 2], dict(reduce_zero_label=False, label_map={0: 0, 1: 255, 2: 255})),
        ([2, 3], dict(reduce_zero_label=True, label_map={0: 0, 1: 255, 2: 255})),
    ],
)
def test_maps_without_a_class(
    ids: list[int], options: dict[str, Any], tmp_path: Path, warnings: list[str]
) -> None:
    def results(labels: list[int], name: str) -> dict[str, Any]:
        path = write(tmp_path / name, np.array([labels], np.uint8))
        return dict(seg_map_path=path, **options)

    empty = results(ids, "empty.png")
    step = CheckLabels(num_classes=3, max_empty=3)
    for _ in range(2):
        step(empty)
    (warning,) = warnings  # one for a map
    assert empty["seg_map_path"] in warning and f"only the ids {ids}" in warning
    with pytest.raises(LabelMapError, match="all of the first 3: .*reduce_zero") as e:
        step(empty)
    assert empty["seg_map_path"] in str(e.value)

    step = CheckLabels(num_classes=3, max_empty=None)
    for _ in range(40):
        step(empty)
    # One map with classes among the first is enough, and a later one is no matter.
    step = CheckLabels(num_classes=3, max_empty=3)
    for item in (empty, results([0, 1, 2], "good.png"), empty):
        step(item)
    for _ in range(40):
        step(empty)


def test_one_class_alone_is_a_warning(tmp_path: Path, warnings: list[str]) -> None:
    """Binary masks with the reduce_zero_label of ADE20K, or nothing but background."""
    mask = write(tmp_path / "a.png", np.array([[0, 1]], np.uint8))
    step = CheckLabels(num_classes=2, max_empty=3)
    for _ in range(4):
        step(dict(seg_map_path=mask, reduce_zero_label=True))
    (warning,) = warnings
    assert "The first 3 label maps hold one class alone, {0} of 2" in warning
    both = CheckLabels(num_classes=2, max_empty=3)
    for _ in range(4):
        both(dict(seg_map_path=mask, reduce_zero_label=False))
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "labels",
    [np.full((2, 3), -2, np.int32), np.full((2, 3), 0.5, np.float32)],
    ids=["negative", "fraction"],
)
def test_ids_that_are_none(labels: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", labels)
    with pytest.raises(LabelMapError, match=f"label id {labels[0, 0]} .6 pixels"):
        check(path)


@pytest.mark.parametrize("mode", ["1", "P"])
def test_modes_that_hold_ids(mode: str, tmp_path: Path, warnings: list[str]) -> None:
    image = Image.new(mode, (3, 2), 1)
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png")
    CheckLabels(num_classes=2)(dict(seg_map_path=str(tmp_path / "a.png")))
    assert not warnings


def test_size_is_that_of_the_image(tmp_path: Path) -> None:
    """An image that EXIF turns, one that was resized; 180 degrees cannot be seen."""
    path = write(tmp_path / "a.png", np.ones((2, 4), np.uint8))
    results = dict(img_path="b.jpg", seg_map_path=path, ori_shape=(2, 4))
    CheckLabels(num_classes=2)(results)
    for shape in [(4, 2), (1, 2)]:
        results["ori_shape"] = shape
        with pytest.raises(LabelMapError, match=r"\(2, 4\) .*'b.jpg' .*EXIF") as error:
            CheckLabels(num_classes=2)(results)
        assert path in str(error.value)
