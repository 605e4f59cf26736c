"""COCO annotations that are checked when they are read.

Not imported with the package, as it needs mmdet: a config names the module in
``custom_imports``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO

from ..registry import register


class AnnotationError(ValueError):
    """An annotation file is of no use; the message names the file and the key."""


class _NamedCoco(COCO):
    """pycocotools' reader, whose errors name neither the file nor the key."""

    def __init__(self, annotation_file: str) -> None:
        try:
            super().__init__(annotation_file)
        # JSONDecodeError and UnicodeDecodeError are ValueErrors; AssertionError: no
        # dict; KeyError and TypeError: entries that are not what they should be.
        except (ValueError, AssertionError, KeyError, TypeError) as error:
            raise AnnotationError(
                f"{annotation_file}: no complete COCO annotation file "
                f"({type(error).__name__}: {error}); it may be empty or truncated, so "
                "compare its size with the original's."
            ) from error
        for key in ("images", "categories"):
            if not self.dataset.get(key):
                raise AnnotationError(
                    f"{annotation_file}: {key!r} is missing or empty; this is no COCO "
                    f"file of instances, as it has only {sorted(self.dataset)}."
                )


@register("dataset")
class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset``, which stops where that one would drop data in silence.

    mmdet leaves out annotations of an unknown category and boxes outside their image,
    and gives an empty dataset for classes that the file does not know. What real COCO
    has is let pass: images without instances, and boxes less than a pixel wide, which
    mmdet leaves out. So do annotations of categories that ``metainfo.classes`` leaves
    out on purpose.

    Args:
        *args: As for ``CocoDataset``.
        **kwargs: As for ``CocoDataset``.

    Raises:
        AnnotationError: If the annotations are of no use; it names file and key.
        FileNotFoundError: If there is no such file.
    """

    COCOAPI = _NamedCoco

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """Checks an image and its annotations, then parses them."""
        image = raw_data_info["raw_img_info"]
        name = f"image {image['img_id']}"
        self._check_keys(name, image, ("file_name", "height", "width"))
        for annotation in raw_data_info["raw_ann_info"]:
            self._check_annotation(annotation, image)
        return super().parse_data_info(raw_data_info)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the file.

        Raises:
            AnnotationError: See the class.
        """
        data_list = super().load_data_list()
        if len(self.cat_ids) != len(self.metainfo["classes"]):
            self._fail(
                f"'categories' has {len(self.cat_ids)} of the "
                f"{len(self.metainfo['classes'])} classes of the dataset; set "
                "metainfo=dict(classes=...) to names that the file has, and the heads' "
                "num_classes to their number"
            )
        return data_list

    def filter_data(self) -> list[dict[str, Any]]:
        """Leaves out what ``filter_cfg`` says.

        Raises:
            AnnotationError: If nothing is left.
        """
        data_list = super().filter_data()
        if not data_list:
            self._fail(
                f"none of its {len(self.data_list)} images passes filter_cfg="
                f"{self.filter_cfg}; 'annotations' may be empty"
            )
        return data_list

    def _check_annotation(
        self, annotation: dict[str, Any], image: dict[str, Any]
    ) -> None:
        name = f"annotation {annotation['id']}"
        needed = ["bbox", "area", "category_id"]
        if any(getattr(t, "with_mask", False) for t in self.pipeline.transforms):
            needed.append("segmentation")
        self._check_keys(name, annotation, needed)
        if annotation["category_id"] not in self.coco.cats:
            self._fail(
                f"{name} has 'category_id' {annotation['category_id']}, which is not "
                f"among its 'categories' {_shown(self.coco.cats)}"
            )
        self._check_box(name, annotation["bbox"], image)

    def _check_box(self, name: str, box: list[float], image: dict[str, Any]) -> None:
        if len(box) != 4:
            self._fail(f"{name} has 'bbox' {box}; it must be [x, y, width, height]")
        x, y, width, height = box
        if width < 1 or height < 1:
            return
        # Said so that NaN fails too. A box that only sticks out is for mmdet to cut.
        starts_inside = x < image["width"] and y < image["height"]
        if not (starts_inside and x + width > 0 and y + height > 0):
            self._fail(
                f"{name} has 'bbox' {box}, which is outside its image "
                f"{image['file_name']} of {image['width']} x {image['height']} pixels"
            )

    def _check_keys(
        self, name: str, entry: dict[str, Any], keys: Iterable[str]
    ) -> None:
        for key in keys:
            if key not in entry:
                self._fail(f"{name} has no {key!r}, only {sorted(entry)}")

    def _fail(self, reason: str) -> None:
        raise AnnotationError(f"{self.ann_file}: {reason}.")


def _shown(ids: Iterable[int]) -> str:
    """The first few of many ids."""
    ids = sorted(ids)
    return f"{ids}" if len(ids) <= 8 else f"{ids[0]}, {ids[1]}, ... {ids[-1]}"
