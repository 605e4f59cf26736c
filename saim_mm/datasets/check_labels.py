"""Finds bad label maps of segmentation, by name, before they are trained on."""

from __future__ import annotations

from typing import Any, NoReturn

import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import BaseTransform

from ..registry import register


class LabelMapError(ValueError):
    """A label map is missing, broken, or holds an id that is no class."""


@register("transform")
class CheckLabels(BaseTransform):
    """Stops at a label map that mmseg would trip over, or silently misread.

    mmseg names no file when a label map is truncated, fails on an id that is too large
    somewhere in the loss (on CUDA in a device-side assert) and takes an id of 300 for
    300 modulo 256. Put this before ``LoadAnnotations``; it looks at the file itself,
    and changes nothing. Without ``seg_map_path`` (inference) there is nothing to check.

    Args:
        num_classes: Number of classes that the files know: ids 0 to num_classes - 1, or
            with the dataset's ``reduce_zero_label`` 1 to num_classes, and 0.
        ignore_index: The id of pixels that do not count.
        backend_args: Options of the mmengine file backend.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1.")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.backend_args = backend_args

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Checks the file at ``results["seg_map_path"]``, and returns ``results``.

        Raises:
            LabelMapError: If it is missing, cannot be decoded, has several channels, or
                holds an id that is no class.
        """
        path = results.get("seg_map_path")
        if path is None:
            return results
        labels = self._load(path)
        if labels.ndim != 2:
            _fail(
                path,
                f"has shape {labels.shape}; a label map has one channel that holds "
                "class ids, not colours",
            )
        highest = self.num_classes - 1 + bool(results.get("reduce_zero_label"))
        wrong = labels[(labels > highest) & (labels != self.ignore_index)]
        if wrong.size:
            ids = np.unique(wrong)
            _fail(
                path,
                f"holds the label id {ids[0]} ({wrong.size} pixels, {len(ids)} ids out "
                f"of range); 0 to {highest} and {self.ignore_index} (ignored) are "
                f"allowed with num_classes={self.num_classes} and "
                f"reduce_zero_label={bool(results.get('reduce_zero_label'))}. Mend the "
                "file, or num_classes of the config",
            )
        return results

    def _load(self, path: str) -> np.ndarray:
        """Decodes as mmseg does, but keeps ids above 255."""
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except FileNotFoundError:
            _fail(path, "does not exist; every image needs a label map of its name")
        try:
            return mmcv.imfrombytes(content, flag="unchanged", backend="pillow")
        # Pillow raises OSError, SyntaxError, ValueError, ..., none with the name.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}" if content else "empty file"
            _fail(path, f"cannot be decoded ({reason}); restore it")


def _fail(path: str, reason: str) -> NoReturn:
    raise LabelMapError(f"seg_map_path {path!r} {reason}.")
