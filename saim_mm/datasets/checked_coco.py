"""COCO annotations that are checked when they are read.

It needs mmdet, so that a config must name it in ``custom_imports``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log

from ..registry import register

_KEPT = "kept"


class AnnotationError(ValueError):
    """An annotation file is of no use; the message names the file and the key."""


class _NamedCoco(COCO):
    """pycocotools' reader, whose errors name neither the file nor the key."""

    def __init__(self, annotation_file: str) -> None:
        self._file = annotation_file
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
                self._fail(
                    f"{key!r} is missing or empty; this is no COCO file of instances, "
                    f"as it has only {sorted(self.dataset)}"
                )
        for key in ("images", "categories", "annotations"):
            ids = Counter(entry["id"] for entry in self.dataset.get(key, ()))
            twice = [i for i, count in ids.items() if count > 1]
            if twice:
                self._fail(
                    f"{key!r} has {len(twice)} ids twice, such as {twice[:5]}; number "
                    "them anew, as only the last entry of each would count"
                )
        for key, known in (("image_id", self.imgs), ("category_id", self.cats)):
            as_text = {str(i): i for i in known}
            for annotation in self.anns.values():
                value = annotation.get(key)
                if value not in known and str(value) in as_text:
                    self._fail(
                        f"annotation {annotation['id']} has {key!r} {value!r} and "
                        f"means {as_text[str(value)]!r}: one of them is text; write "
                        "numbers on both sides"
                    )

    def get_cat_ids(self, cat_names: Sequence[str] = (), **options: Any) -> list[int]:
        """The ids of classes, in the order of the file, which must be theirs."""
        ids = super().get_cat_ids(cat_names=cat_names, **options)
        found = [self.cats[i]["name"] for i in ids]
        missing = [name for name in cat_names if name not in found]
        if missing or found != list(cat_names):
            self._fail(
                f"'categories' has {len(ids)} of the {len(cat_names)} classes of the "
                f"dataset, not {missing[:5]}, in this order: {found[:9]}; set metainfo="
                "dict(classes=...) to names that the file has, in its order, and the "
                "heads' num_classes to their number"
            )
        return ids

    def _fail(self, reason: str) -> None:
        raise AnnotationError(f"{self._file}: {reason}.")


class _CheckSize(BaseTransform):
    """Stops at an image that is loaded in another size than it was annotated in."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        loaded, said = results["ori_shape"][:2], (results["height"], results["width"])
        if tuple(loaded) == said:
            return results
        remedy = "boxes and masks would be misplaced, so resize it or its annotations"
        if tuple(loaded) == said[::-1]:
            remedy = (
                "its EXIF orientation turns it; if it was annotated unturned, write "
                "color_type='color_ignore_orientation' in LoadImageFromFile of every "
                "pipeline, else mend 'width' and 'height'"
            )
        raise AnnotationError(
            f"{results['img_path']} is loaded with {loaded[1]} x {loaded[0]} pixels, "
            f"and was annotated with {said[1]} x {said[0]}: {remedy}."
        )


@register("dataset")
class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset``, which stops where that one would go wrong in silence.

    mmdet leaves out annotations of an unknown category and boxes outside their image,
    gives an empty dataset for classes that the file does not know, and takes images of
    any size. What real COCO has is let pass and counted in the log: images without
    instances, crowds, and boxes less than a pixel wide. So are annotations of
    categories that ``metainfo.classes`` leaves out on purpose.

    Args:
        *args: As for ``CocoDataset``.
        **kwargs: As for ``CocoDataset``.

    Raises:
        AnnotationError: If the annotations are of no use; it names file and key.
        FileNotFoundError: If there is no such file.
    """

    COCOAPI = _NamedCoco

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        steps = self.pipeline.transforms
        loads = [isinstance(step, LoadImageFromFile) for step in steps]
        if any(loads):
            steps.insert(loads.index(True) + 1, _CheckSize())

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
        """Checks an image and its annotations, then parses them."""
        image = raw_data_info["raw_img_info"]
        name = f"image {image['img_id']}"
        self._check_keys(name, image, ("file_name", "height", "width"))
        size = [image["height"], image["width"]]
        if not _is_numbers(size):
            self._fail(f"{name} has 'height' and 'width' {size}; they must be numbers")
        for annotation in raw_data_info["raw_ann_info"]:
            self._check_annotation(annotation, image)
            self._fates[self._fate_of(annotation, image)] += 1
        self._in_file = len(self.coco.anns)
        return super().parse_data_info(raw_data_info)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the file, and logs what becomes of its annotations."""
        classes = self.metainfo["classes"]
        if isinstance(classes, str):
            self._fail(
                f"classes={classes!r} is a string, so each letter would be a class; a "
                f"single name needs a comma: classes=({classes!r},)"
            )
        self._fates: Counter[str] = Counter()
        steps = self.pipeline.transforms
        self._with_mask = any(getattr(step, "with_mask", False) for step in steps)
        data_list = super().load_data_list()
        strays = self._in_file - self._fates.total()
        if strays:
            self._fates["dropped: 'image_id' is not among 'images'"] = strays
        kept = self._fates.pop(_KEPT, 0)
        lost = "".join(f"; {n} {fate}" for fate, n in self._fates.most_common())
        if self._in_file and not kept:
            self._fail(f"none of its {self._in_file} annotations is an instance{lost}")
        counts = f"{kept} of {self._in_file} annotations are instances{lost}"
        print_log(f"{self.ann_file}: {counts}.", logger="current")
        return data_list

    def filter_data(self) -> list[dict[str, Any]]:
        """Leaves out what ``filter_cfg`` says, but not everything."""
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
        masks = ["segmentation"] if self._with_mask else []
        self._check_keys(name, annotation, ["bbox", "area", "category_id", *masks])
        if annotation["category_id"] not in self.coco.cats:
            self._fail(
                f"{name} has 'category_id' {annotation['category_id']}, which is not "
                f"among its 'categories' {_shown(self.coco.cats)}"
            )
        box = annotation["bbox"]
        if not _is_numbers(box) or len(box) != 4:
            self._fail(f"{name} has 'bbox' {box!r}; it must be [x, y, width, height]")
        x, y, width, height = box
        is_thin = width < 1 or height < 1  # as real COCO has them
        # Said so that NaN fails too. A box that only sticks out is for mmdet to cut.
        starts_inside = x < image["width"] and y < image["height"]
        if not (is_thin or starts_inside and x + width > 0 and y + height > 0):
            self._fail(
                f"{name} has 'bbox' {box}, which is outside its image "
                f"{image['file_name']} of {image['width']} x {image['height']} pixels"
            )
        if not _is_numbers([annotation["area"]]):
            self._fail(f"{name} has 'area' {annotation['area']!r}; it must be a number")

    def _fate_of(self, annotation: dict[str, Any], image: dict[str, Any]) -> str:
        """What mmdet makes of a sound annotation: keeps it, ignores it, drops it."""
        if annotation.get("ignore"):
            return "dropped: 'ignore' is set"
        if min(annotation["bbox"][2:]) < 1:
            return (
                "dropped: 'bbox' is less than a pixel wide or high ([x, y, width, "
                "height] are in pixels, not fractions of the image)"
            )
        if annotation["area"] <= 0:
            return "dropped: 'area' is 0 or less"
        if annotation["category_id"] not in self.cat_ids:
            return "dropped: other classes than the dataset's"
        if self._with_mask and not self._has_mask(annotation, image):
            return "ignored: 'segmentation' has no polygon of three points"
        return "ignored: 'iscrowd' is set" if annotation.get("iscrowd") else _KEPT

    def _has_mask(self, annotation: dict[str, Any], image: dict[str, Any]) -> bool:
        """Whether mmdet can draw the mask; what it would trip over is an error."""
        mask, name = annotation["segmentation"], f"annotation {annotation['id']}"
        if isinstance(mask, dict) and {"counts", "size"} <= set(mask):
            size = [image["height"], image["width"]]
            if mask["size"] != size:
                self._fail(
                    f"{name} has a 'segmentation' of 'size' {mask['size']}, and its "
                    f"image {image['file_name']} is {size} (height, width)"
                )
            return True
        if not mask or not isinstance(mask, list) or not all(map(_is_numbers, mask)):
            self._fail(
                f"{name} has 'segmentation' {str(mask)[:60]}; it must be polygons in a "
                "list, [[x1, y1, x2, y2, ...], ...], or a mask {'counts', 'size'}; "
                "remove the annotation, or train without masks"
            )
        return any(len(p) >= 6 and len(p) % 2 == 0 for p in mask)

    def _check_keys(
        self, name: str, entry: dict[str, Any], keys: Iterable[str]
    ) -> None:
        for key in keys:
            if key not in entry:
                self._fail(f"{name} has no {key!r}, only {sorted(entry)}")

    def _fail(self, reason: str) -> None:
        raise AnnotationError(f"{self.ann_file}: {reason}.")


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, (int, float)) for v in values)


def _shown(ids: Iterable[Any]) -> str:
    """The first few of many ids."""
    ids = sorted(ids, key=lambda i: (str(type(i)), i))
    return f"{ids}" if len(ids) <= 8 else f"{ids[0]}, {ids[1]}, ... {ids[-1]}"
