"""Finds bad label maps of segmentation, by name, before they are trained on."""

from __future__ import annotations

from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import register
from .image_files import warn
from .load_image import LoadImage

#: What mmseg makes of ids that do not count.
_IGNORED = 255


class LabelMapError(ValueError):
    """A label map is missing, broken, or of no use; the message names the file."""


@register("transform")
class CheckLabels(BaseTransform):
    """Stops at a label map that mmseg would trip over, or silently misread.

    mmseg names no file when a label map is truncated, fails on an id that is too large
    somewhere in the loss (on CUDA in a device-side assert), takes an id of 300 for
    300 modulo 256, and learns nothing from maps without a class (loss 0, accuracy 100).
    Put this between the image's loading and ``LoadAnnotations``. It changes nothing; in
    inference, without ``seg_map_path``, there is nothing to check.

    Args:
        num_classes: Number of classes that the files know: ids 0 to num_classes - 1, or
            with the dataset's ``reduce_zero_label`` 1 to num_classes, and 0.
        ignore_index: The id of pixels that do not count.
        backend_args: Options of the mmengine file backend.
        max_empty: Stop if none of the first so many maps that a loading process sees
            holds a class; ``None`` never stops. One such map is a warning. A map of
            just 0 and 255, black and white, counts as one without class.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        backend_args: dict[str, Any] | None = None,
        max_empty: int | None = 32,
    ) -> None:
        for name, value in (("num_classes", num_classes), ("max_empty", max_empty)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.max_empty = max_empty
        self._file = LoadImage(backend_args=backend_args)
        self._empty: set[str] = set()
        self._looked_at = 0
        self._seen: set[int] = set()  # classes of the maps so far

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Checks the file at ``results["seg_map_path"]``, and returns ``results``.

        Raises:
            LabelMapError: If it is of no use, or the last of ``max_empty`` without any.
        """
        path = results.get("seg_map_path")
        fault = None if path is None else self._fault(path, results)
        if fault:
            raise LabelMapError(f"seg_map_path {path!r} {fault}.")
        return results

    def _fault(self, path: str, results: dict[str, Any]) -> str | None:
        """What is wrong with a label map, or with so many as are the first ones."""
        try:  # as mmseg does it, but ids above 255 stay
            content = self._file.read(path)
            labels = mmcv.imfrombytes(content, flag="unchanged", backend="pillow")
        except FileNotFoundError:
            return "does not exist; every image needs a label map of its name"
        # Pillow raises OSError, SyntaxError, ValueError, ..., none with the name.
        except Exception as error:
            return f"cannot be decoded ({type(error).__name__}: {error}); restore it"
        if labels.ndim != 2:
            return (
                f"has shape {labels.shape}; a label map has one channel that holds "
                "class ids, not colours"
            )
        shape = tuple(results.get("ori_shape", labels.shape))
        if labels.shape != shape:
            return (
                f"has (height, width) {labels.shape} and its image "
                f"{results.get('img_path')!r} {shape}, as it is loaded (EXIF turns "
                "it); turn or resize one of them, so that pixels lie on pixels"
            )
        reduce = bool(results.get("reduce_zero_label"))
        if labels.dtype == np.uint8:  # faster than to sort the pixels
            ids = np.flatnonzero(np.bincount(labels.ravel()))
        else:
            ids = np.unique(labels)
        highest = self.num_classes - 1 + reduce
        wrong = np.setdiff1d(ids, [*range(highest + 1), self.ignore_index])
        if wrong.size:
            pixels = np.isin(labels, wrong).sum()
            return (
                f"holds the label id {wrong[0]} ({pixels} pixels, {len(wrong)} ids out "
                f"of range); 0 to {highest} and {self.ignore_index} (ignored) are "
                f"allowed with num_classes={self.num_classes} and "
                f"reduce_zero_label={reduce}. Mend the file, or num_classes of the "
                "config"
            )
        classes = (ids[ids != self.ignore_index].astype(int) - reduce).tolist()
        label_map = results.get("label_map") or {}
        kept = {label_map.get(i, i) for i in classes if i >= 0} - {_IGNORED}
        if ids.tolist() == [0, _IGNORED]:
            kept.clear()
        text = (
            f"holds no class, only the ids {ids.tolist()[:5]} with ignore_index="
            f"{self.ignore_index} and reduce_zero_label={reduce}: there is nothing to "
            "learn from it. Label maps hold class ids (0, 1, ...), not black and white"
        )
        if not kept and path not in self._empty:
            self._empty.add(path)
            warn(f"seg_map_path {path!r} {text}.")
        self._looked_at += 1
        self._seen |= kept
        if self._looked_at != self.max_empty:
            return None
        if len(self._seen) == 1 and self.num_classes > 1:
            warn(
                f"The first {self.max_empty} label maps hold one class alone, "
                f"{self._seen} of {self.num_classes} (reduce_zero_label={reduce}); a "
                "model learns to say nothing else."
            )
        if self._seen:
            return None
        return (
            f"{text}. So do all of the first {self.max_empty}: mend them or "
            "reduce_zero_label, or set max_empty=None of CheckLabels"
        )
