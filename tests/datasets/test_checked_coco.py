"""Annotation files of COCO: good ones are read, bad ones named with file and key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

pytest.importorskip("mmdet")
pytest.importorskip("mmcv.ops")

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
    read(coco_file(bbox=box), tmp_path)


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
