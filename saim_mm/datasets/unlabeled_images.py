"""Images without labels, from a folder or a list, that survive broken files.

A broken file is noticed by whoever reads it first, mostly a data worker. It is marked
in one byte of shared memory, so that every worker and the main process see it; the
main process names it in the log (:class:`saim_mm.reliability.BrokenImageHook`).
"""

from __future__ import annotations

import copy
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from mmengine.dataset import Compose
from mmpretrain.datasets import BaseDataset
from torch import Tensor
from torch.utils.data import get_worker_info

from ..registry import register
from ..utils.sample_index import generators_of, seed_from
from .exact_sampler import SeedSample
from .image_files import (
    IMAGE_SUFFIXES,
    describe_left_out,
    list_images,
    one_line,
    read_image_list,
    warn_of_left_out,
)
from .load_image import BrokenImageError

#: Lines of a list whose files are looked up when it is read. A wrong prefix shows in
#: the first; looking up all 1.28 M takes minutes on a network file system.
PROBED_LINES = 64
_LOADS = "loads now; it failed before, or was marked by hand"


class TooManyBrokenImages(RuntimeError):
    """More images are broken than ``max_broken_share`` allows."""


@register("dataset")
class UnlabeledImages(BaseDataset):
    """Images without labels; broken ones are replaced, counted and remembered.

    Three layouts: a folder, flat or nested to any depth; ImageNet's (``data_prefix``
    ``"train"``; its class folders are just folders here); and with ``ann_file`` a
    text file of paths relative to the prefix (see :func:`read_image_list`).

    When the loader, the first transform of the pipeline but for :class:`SeedSample`,
    raises or returns None, the image is broken and the next one upward that loads is
    served in its place: the same one on every rank and in every resumed run.
    With :class:`ExactSampler`, the random transforms repeat themselves too: they draw
    from what follows from (seed, epoch, index), whichever process they run in.
    A failure of a later transform is raised as an error of the pipeline.

    Args:
        data_root: Folder that ``data_prefix`` and ``ann_file`` are relative to.
        data_prefix: Folder of the images; a dict has it as ``img_path``.
        ann_file: List of images; empty means every image of the folder.
        pipeline: Transforms, or configs of them; the first one loads the image.
        extensions: Suffixes that make a file an image; case does not matter, and
            ``[""]`` takes every file. The log says what is left out.
        max_broken_share: Share of the images, in [0, 1], that may be broken before
            the run ends. Unless it is 0, one broken image is always allowed.
        metainfo: Extra meta information.
        indices: Keep only the first (negative: last) so many, or these images.
        serialize_data: Hold the paths in one block of memory that workers share.
        test_mode: Raise for a broken image instead of replacing it.
        lazy_init: Do not look for the images yet.

    Attributes:
        broken: (N,) uint8 in shared memory, 1 for an image known to be broken.

    Raises:
        FileNotFoundError: If the folder, the list or a listed image does not exist.
        ValueError: If an option, the folder or the list is of no use.
    """

    broken: Tensor

    #: Every sample is made from what follows from its index; no transform need seed.
    seeds_samples = True

    def __init__(
        self,
        data_root: str = "",
        data_prefix: str | dict[str, str] = "",
        ann_file: str = "",
        pipeline: Sequence[dict[str, Any] | Callable] = (),
        extensions: Sequence[str] = IMAGE_SUFFIXES,
        max_broken_share: float = 1e-3,
        metainfo: dict[str, Any] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        test_mode: bool = False,
        lazy_init: bool = False,
    ) -> None:
        if not 0 <= max_broken_share <= 1:
            raise ValueError(
                f"max_broken_share={max_broken_share} must be in [0, 1]; 0.001 lets "
                "1 image in 1000 be broken"
            )
        begins = {suffix[:1] for suffix in extensions}
        if isinstance(extensions, str) or not begins <= {".", ""}:
            raise ValueError(
                f"extensions={extensions!r} must be a list of suffixes that begin with "
                "a dot, such as ['.jpg', '.png'], or [''] for every file"
            )
        self.max_broken_share = max_broken_share
        self.extensions = tuple(s.lower() for s in extensions)
        super().__init__(
            ann_file=ann_file,
            metainfo=metainfo,
            data_root=os.path.expanduser(data_root),
            data_prefix=data_prefix,
            indices=indices,
            serialize_data=serialize_data,
            pipeline=pipeline,
            test_mode=test_mode,
            lazy_init=lazy_init,
        )

    def full_init(self) -> None:
        """Finds the images, and makes room for one flag each."""
        if not self._fully_initialized:
            super().full_init()
            self._reset_flags()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copy; Runner copies a dataset that it is given as an object."""
        self.__dict__.update(state)
        if self._fully_initialized:
            # A deep copy's flags are its own, but no longer in shared memory.
            self.broken.share_memory_()

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keeps only some images, with flags of their own."""
        super().get_subset_(indices)
        self._reset_flags()

    def get_subset(self, indices: int | Sequence[int]) -> UnlabeledImages:
        """Returns a dataset of only some images, with flags of their own."""
        subset = super().get_subset(indices)
        subset._reset_flags()
        return subset

    def load_data_list(self) -> list[dict[str, str]]:
        """Returns ``dict(img_path=...)`` for each image."""
        folder = self.img_prefix
        names, others = self._find_files(self.extensions)
        if not names:
            raise ValueError(
                f"no image in {folder!r}; {describe_left_out(others)}. Images end in "
                f"one of {', '.join(self.extensions)}: put some there, or set the "
                "dataset's extensions"
            )
        warn_of_left_out(folder, len(names), others)
        return [dict(img_path=os.path.join(folder, name)) for name in names]

    def _find_files(self, suffixes: tuple[str, ...]) -> tuple[list[str], Counter[str]]:
        """Names of files, sorted or as listed, and how much else lies beside them."""
        folder = self.img_prefix
        # Folders behind a storage backend (s3://...) cannot be walked or checked here.
        remote = "://" in folder
        if not remote:
            self._check_folder(folder)
        elif not self.ann_file:
            raise ValueError(
                f"images cannot be searched for in {folder!r}, which is no local "
                "folder; list them in an ann_file"
            )
        if not self.ann_file:
            return list_images(folder, suffixes)
        names = read_image_list(self.ann_file, suffixes)
        probed = range(0, len(names), math.ceil(len(names) / PROBED_LINES))
        for index in probed if not remote else ():
            path = os.path.join(folder, names[index])
            # lexists: a link that leads nowhere is a broken image, not a wrong list.
            if not os.path.lexists(path):
                raise FileNotFoundError(
                    f"line {index + 1} of {self.ann_file!r} names {path!r}, which does "
                    "not exist; correct data_root and data_prefix, or the list"
                )
        return names, Counter()

    def prepare_data(self, idx: int) -> Any:
        """Returns what the pipeline makes of image ``idx`` or its replacement.

        Raises:
            BrokenImageError: In test mode, if the image is broken.
            TooManyBrokenImages: If more are broken than allowed, or none loads.
            RuntimeError: If a transform after the loader returns None.
        """
        if not -len(self) <= idx < len(self):
            raise IndexError(f"no image {idx} in a dataset of {len(self)}")
        if not self.pipeline.transforms:
            return self.get_data_info(idx)
        # In the main process the model draws from the same generators.
        with generators_of(idx, restore=get_worker_info() is None):
            sample = self._load(idx) if self.test_mode else self._load_or_replace(idx)
            _, rest = self._parts()
            sample = rest(sample)
        if sample is None:
            # mmengine would serve a random other image, which no resumed run or other
            # rank could repeat.
            raise RuntimeError(
                f"One of {rest.transforms} returned None for image {idx}; only the "
                "loader, the first transform, may reject an image"
            )
        return sample

    def _parts(self) -> tuple[Compose, Compose]:
        """The pipeline up to the loader, the first that does not only seed; the rest.

        Both are of its own kind: mm's ``browse_dataset.py`` has one that keeps what
        each transform makes.
        """
        transforms = self.pipeline.transforms
        count = 1 + isinstance(transforms[0], SeedSample)
        loading, rest = copy.copy(self.pipeline), copy.copy(self.pipeline)
        loading.transforms, rest.transforms = transforms[:count], transforms[count:]
        return loading, rest

    @property
    def max_broken(self) -> int:
        """Number of images that may be broken before the run ends."""
        if self.max_broken_share == 0:
            return 0
        return max(1, math.floor(self.max_broken_share * len(self)))

    def broken_indices(self) -> list[int]:
        """Returns the indices of the images known to be broken, in rising order."""
        return self.broken.nonzero().flatten().tolist()

    def mark_broken(self, indices: Iterable[int]) -> None:
        """Marks images as broken: they are replaced without another try."""
        # Only ever write ones: workers write here at the same time.
        for idx in indices:
            self.broken[idx] = 1

    def broken_reason(self, idx: int) -> str:
        """Returns why a broken image does not load; it is tried once more."""
        try:
            self._load(idx)
        except BrokenImageError as error:
            return error.reason
        return _LOADS

    def loads(self, idx: int) -> bool:
        """Tells whether an image loads, whatever was known of it before."""
        return self.broken_reason(idx) is _LOADS

    def describe_broken(self, idx: int) -> str:
        """Returns the path of a broken image and why it does not load."""
        return f"{self.get_data_info(idx)['img_path']!r}: {self.broken_reason(idx)}"

    def check_broken_share(self, count: int, last: str) -> None:
        """Raises ``TooManyBrokenImages`` if ``count`` is more than :attr:`max_broken`.

        The count is given, as the flags may change while the ranks of a run must come
        to one conclusion; ``last`` is the image found last, and why it does not load.
        """
        if count > self.max_broken:
            raise TooManyBrokenImages(
                f"{count} of {len(self)} images are broken ({count / len(self):.2%}), "
                f"max_broken_share={self.max_broken_share} allows {self.max_broken}; "
                f"the last one is {last}. Mend or remove them, or raise "
                "max_broken_share"
            )

    def _load(self, idx: int) -> dict[str, Any]:
        loading, _ = self._parts()
        info = self.get_data_info(idx)
        path = info["img_path"]
        try:
            sample = loading(info)
        # What a loader raises for a bad file is its own affair (cv2.error, OSError,
        # AssertionError, ...). A loader that always fails soon ends the run anyway.
        except Exception as error:
            raise BrokenImageError(path, _reason(error)) from error
        if sample is None:
            name = type(loading.transforms[-1]).__name__
            raise BrokenImageError(path, f"{name} returned None")
        return sample

    def _load_or_replace(self, idx: int) -> dict[str, Any]:
        for step in range(len(self)):
            candidate = (idx + step) % len(self)
            if self.broken[candidate]:
                continue
            if step:
                # A loader that crops may have drawn before it failed. Once the image is
                # known to be broken, that one is not tried, and draws nothing.
                seed_from(candidate)
            try:
                return self._load(candidate)
            except BrokenImageError as error:
                self.mark_broken([candidate])
                # Here and not in the hook alone, lest a folder of nothing but broken
                # files be read to its end.
                self.check_broken_share(int(self.broken.sum()), last=str(error))
        raise TooManyBrokenImages(
            f"none of the {len(self)} images loads; the first one is "
            f"{self.describe_broken(0)}"
        )

    def _reset_flags(self) -> None:
        self.broken = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def _check_folder(self, folder: str) -> None:
        if not folder and not self.ann_file:
            raise ValueError(
                "no images were named; set data_root to the folder that holds them"
            )
        where = (
            f"data_root={self.data_root!r} and data_prefix={self.img_prefix!r} must "
            "give the folder that holds the images"
        )
        if not os.path.exists(folder or os.curdir):
            raise FileNotFoundError(f"image folder {folder!r} does not exist; {where}")
        if not os.path.isdir(folder or os.curdir):
            raise ValueError(
                f"image folder {folder!r} is a file; {where}, and a list of images "
                "belongs in ann_file"
            )


def _reason(error: Exception) -> str:
    """Says in one line, without the path, what a loader's error was about."""
    if isinstance(error, BrokenImageError):
        return error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(f"{type(error).__name__}: {error}")
