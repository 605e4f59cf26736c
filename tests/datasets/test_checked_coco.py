"""Annotation files of COCO: good ones are read, bad ones named with file and key."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmcv.ops")

from saim_mm.datasets import checked_coco  # noqa: E402
from saim_mm.datasets.checked_coco import AnnotationError  # noqa: E402

CONFIG = Path(__file__).parents[2] / "configs/coco/mask-rcnn_saim-vit-b_100e_coco.py"


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Leaves no default scope behind."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def coco_file(**changes: Any) -> dict[str, Any]:
    """Two images of 64 x 48, the second without instances; two categories."""
    annotation = dict(
        id=7,
        image_id=1,
        category_id=18,
        bbox=[10.0, 10.0, 20.0, 20.0],
        area=400.0,
        iscrowd=0,
        segmentation=[[10.0, 10.0, 30.0, 10.0, 30.0, 30.0]],
    )
    annotation.update(changes)
    return dict(
        images=[dict(id=n, file_name=f"{n}.jpg", height=48, width=64) for n in (1, 2)],
        annotations=[annotation],
        categories=[dict(id=17, name="cat"), dict(id=18, name="dog")],
    )


def read(content: dict[str, Any] | str, folder: Path, **options: Any) -> Any:
    """The training set of the config, from this annotation file."""
    file = folder / "instances.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    dataset = Config.fromfile(CONFIG).train_dataloader.dataset
    dataset.update(data_root=str(folder), ann_file=file.name)
    dataset.update({"metainfo": dict(classes=("cat", "dog")), **options})
    return DATASETS.build(dataset)


def test_good_annotations(tmp_path: Path) -> None:
    dataset = read(coco_file(), tmp_path)
    assert len(dataset) == 1
    assert dataset.get_data_info(0)["instances"][0]["bbox_label"] == 1
    assert len(read(coco_file(), tmp_path, filter_cfg=None)) == 2
    # A class less, on purpose: its annotations are left out.
    content = coco_file(category_id=17)
    only = read(content, tmp_path, metainfo=dict(classes=("cat",)), filter_cfg=None)
    assert [len(only.get_data_info(i)["instances"]) for i in (0, 1)] == [1, 0]


@pytest.mark.parametrize(
    "box",
    [[-5.0, -5.0, 20.0, 90.0], [10.0, 10.0, 0.0, 5.0]],
    ids=["sticks out", "thin"],
)
def test_boxes_as_real_coco_has_them_are_no_error(
    box: list[float], tmp_path: Path
) -> None:
    content = coco_file()
    content["annotations"] += coco_file(id=8, bbox=box)["annotations"]
    read(content, tmp_path)


BAD_FILES: dict[str, tuple[dict[str, Any] | str, str]] = {
    "empty": ("", "empty or truncated"),
    "truncated": (json.dumps(coco_file())[:-100], "empty or truncated"),
    "a list": ("[]", "empty or truncated"),
    "no ids": ({**coco_file(), "images": [{}]}, "KeyError: 'id'"),
    "of another kind": ({"results": []}, "'images' is missing"),
    "no instances": ({**coco_file(), "annotations": []}, "'annotations' may be empty"),
    "category": (coco_file(category_id=91), "annotation 7 has 'category_id' 91"),
    "right of it": (coco_file(bbox=[64, 0, 5, 5]), "annotation 7 has 'bbox'.*outside"),
    "above it": (coco_file(bbox=[0, -9, 5, 9]), "'bbox'.*outside its image 1.jpg"),
    "NaN": (coco_file(bbox=[0, math.nan, 5, 5]), "'bbox'.*outside"),
    "three numbers": (coco_file(bbox=[0, 1, 2]), "'bbox'.*x, y, width, height"),
    "no masks": (
        {**coco_file(), "annotations": [{"id": 7, "image_id": 1, "bbox": [1, 1, 9, 9],
                                         "area": 9, "category_id": 17}]},
        "annotation 7 has no 'segmentation'",
    ),
    "no size": ({**coco_file(), "images": [{"id": 1, "file_name": "a"}]}, "'height'"),
    "other classes": (
        {**coco_file(), "categories": [{"id": 18, "name": "dog"}]},
        "'categories' has 1 of the 2 classes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_annotations_name_file_and_key(kind: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[kind]
    with pytest.raises(AnnotationError, match=message) as error:
        read(content, tmp_path)
    assert str(tmp_path / "instances.json") in str(error.value)


def with_second(**changes: Any) -> dict[str, Any]:
    """A good annotation, 7, and another, 8."""
    content = coco_file()
    content["annotations"] += coco_file(id=8, **changes)["annotations"]
    return content


LOST: dict[str, tuple[dict[str, Any], str]] = {
    "crowd": (dict(iscrowd=1), "ignored: 'iscrowd'"),
    "text": (dict(iscrowd="0"), "ignored: 'iscrowd'"),
    "ignore": (dict(ignore=1), "dropped: 'ignore'"),
    "fractions": (dict(bbox=[0.1, 0.1, 0.5, 0.5]), "dropped: 'bbox' .* not fractions"),
    "no area": (dict(area=0), "dropped: 'area'"),
    "other image": (dict(image_id=99), "dropped: 'image_id' is not among 'images'"),
    "line": (dict(segmentation=[[1, 1, 9, 9]]), "ignored: 'segmentation' has no poly"),
    "odd": (dict(segmentation=[[1, 1, 9, 9, 5, 5, 5]]), "ignored: 'segmentation'"),
}


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged."""
    found: list[str] = []
    monkeypatch.setattr(checked_coco, "print_log", lambda text, **_: found.append(text))
    return found


@pytest.mark.parametrize("kind", LOST)
def test_lost_annotations_are_counted_and_none_left_is_an_error(
    kind: str, tmp_path: Path, lines: list[str]
) -> None:
    changes, reason = LOST[kind]
    with pytest.raises(AnnotationError, match=f"none of its 1 ann.*; 1 {reason}"):
        read(coco_file(**changes), tmp_path)
    with pytest.raises(AnnotationError, match="none of its 1 ann"):
        read(coco_file(**changes), tmp_path, test_mode=True)
    dataset = read(with_second(**changes), tmp_path)
    (line,) = lines
    assert re.search(f"1 of 2 annotations are instances; 1 {reason}", line)
    # What mmdet's loading makes of it: one instance that counts.
    data = dict(dataset.get_data_info(0), ori_shape=(48, 64))
    loaded = dataset.pipeline.transforms[3](data)
    assert (~loaded["gt_ignore_flags"]).sum() == 1


def test_classes_left_out_on_purpose_are_counted(
    tmp_path: Path, lines: list[str]
) -> None:
    cats = dict(metainfo=dict(classes=("dog",)))
    read(with_second(category_id=17), tmp_path, **cats)
    assert "1 of 2 annotations are instances; 1 dropped: other classes" in lines[0]
    with pytest.raises(AnnotationError, match="none of its 1 annotations"):
        read(coco_file(category_id=17), tmp_path, **cats)


def doubled(key: str) -> dict[str, Any]:
    content = coco_file()
    content[key] += content[key][:1]
    return content


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "two images of an id": (doubled("images"), r"'images' has 1 ids twice, .*\[1\]"),
    "annotations": (doubled("annotations"), r"'annotations' has 1 ids twice, .*\[7\]"),
    "categories": (doubled("categories"), r"'categories' has 1 ids twice, .*\[17\]"),
    "image_id as text": (
        coco_file(image_id="1"), "annotation 7 has 'image_id' '1' and means 1.* text"
    ),
    "category as text": (coco_file(category_id="18"), "'category_id' '18' .*is text"),
    "images' ids as text": (
        {**coco_file(), "images": [dict(id="1", file_name="a", height=48, width=64)]},
        "annotation 7 has 'image_id' 1 and means '1'.* text",
    ),
    "mixed ids": (
        {
            **coco_file(),
            "categories": [dict(id=1, name="cat"), dict(id="a", name="dog")],
        },
        "annotation 7 has 'category_id' 18",
    ),
    "no mask": (coco_file(segmentation=[]), r"annotation 7 has 'segmentation' \[\];"),
    "null mask": (coco_file(segmentation=None), "annotation 7 has 'segmentation' None"),
    "flat mask": (coco_file(segmentation=[1, 1, 9, 1, 9, 9]), "annotation 7 .*in a"),
    "text mask": (coco_file(segmentation="abc"), "annotation 7 has 'segmentation' abc"),
    "no counts": (coco_file(segmentation=dict(size=[48, 64])), "annotation 7 has"),
    "mask of another size": (
        coco_file(segmentation=dict(size=[64, 48], counts=[0, 9])),
        r"annotation 7 .*\[64, 48\].* image 1.jpg is \[48, 64\]",
    ),
    "null area": (coco_file(area=None), "annotation 7 has 'area' None"),
    "null size": (
        {**coco_file(), "images": [dict(id=1, file_name="a", height=None, width=9)]},
        r"image 1 has 'height' and 'width' \[None, 9\]",
    ),
    "text box": (coco_file(bbox=["1", "1", "9", "9"]), "annotation 7 has 'bbox'"),
    "null box": (coco_file(bbox=None), "annotation 7 has 'bbox' None"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_would_fail_later_or_silently_is_named(kind: str, tmp_path: Path) -> None:
    content, message = WRONG[kind]
    with pytest.raises(AnnotationError, match=message) as error:
        read(content, tmp_path)
    assert str(tmp_path / "instances.json") in str(error.value)


def test_empty_mask_does_no_harm_where_it_is_not_read(tmp_path: Path) -> None:
    steps = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    dataset = read(coco_file(segmentation=None), tmp_path, pipeline=steps)
    assert len(dataset) == 1
    # Nor in an annotation that mmdet drops.
    read(with_second(segmentation=None, area=0), tmp_path)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("disc"), r"classes='disc' is a string.*comma: classes=\('disc',\)"),
        (("dog", "cat"), r"in this order: \['cat', 'dog'\]"),
        (("cat", "horse"), r"not \['horse'\]"),
        (("cat", "cat"), "in this order"),
    ],
)
def test_classes_that_would_shift_the_labels(
    classes: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(AnnotationError, match=message):
        read(coco_file(), tmp_path, metainfo=dict(classes=classes))


def photo(folder: Path, size: tuple[int, int], orientation: int = 1) -> None:
    """1.jpg, stored with this (width, height)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = folder / "train2017/1.jpg"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size).save(path, exif=exif)


@pytest.mark.parametrize("loader", ["LoadImageFromFile", "LoadImage"])
def test_photographs_of_another_size_than_annotated(
    loader: str, tmp_path: Path
) -> None:
    dataset = read(coco_file(), tmp_path)
    steps = Config.fromfile(CONFIG).train_dataloader.dataset.pipeline
    steps[1].type = loader
    dataset = read(coco_file(), tmp_path, pipeline=steps)
    for size, turned in [((64, 48), 1), ((64, 48), 3), ((48, 64), 8)]:
        photo(tmp_path, size, turned)
        assert dataset[0]["data_samples"].ori_shape == (48, 64)
    for size, turned, message in [
        ((64, 48), 6, "48 x 64 pixels, .*64 x 48: its EXIF.*color_ignore_orientation"),
        ((48, 64), 1, "48 x 64 pixels, .*64 x 48: its EXIF.*mend 'width' and 'height'"),
        ((32, 24), 1, "32 x 24 pixels, .*64 x 48: .*resize it"),
    ]:
        photo(tmp_path, size, turned)
        with pytest.raises(AnnotationError, match=message) as error:
            dataset[0]
        assert "1.jpg" in str(error.value)
    # The remedy.
    photo(tmp_path, (64, 48), 6)
    steps[1].color_type = "color_ignore_orientation"
    dataset = read(coco_file(), tmp_path, pipeline=steps)
    assert dataset[0]["data_samples"].ori_shape == (48, 64)
