"""Images without labels from the shards of WebDataset."""

from __future__ import annotations

import logging
import os
from typing import Any

from mmengine.logging import print_log

from ..registry import register
from .image_files import list_images, read_image_list
from .load_image import BrokenImageError
from .shard_samples import shard_samples
from .unlabeled_images import UnlabeledImages

#: No image of such a shard can be read without unpacking all that comes before it.
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@register("dataset")
class WebDatasetImages(UnlabeledImages):
    """The images of shards in the format of WebDataset, read where they lie.

    A sample is what has one name up to its first dot, as ``0017.jpg``, ``0017.json``;
    one image of it is served, and nothing else is read. All headers are read at the
    start, about 25,000 a second; from then on every image is as near as any other, so
    that a run shuffles over all shards and goes on anywhere.

    A sample without an image, and a shard that cannot be read or breaks off, is a
    broken image: replaced, listed, counted.

    Takes the options of :class:`UnlabeledImages`. ``data_root`` and ``data_prefix``
    give a folder, in which shards are looked for at any depth; ``ann_file``, if given,
    lists the shards to use. An image is a file with one of the ``extensions``, which
    begin at the first dot of its name: ``[".seg.png"]`` takes these.

    Raises:
        FileNotFoundError: If there is no such folder or list.
        ValueError: If it holds no uncompressed shard, or these hold no image.
    """

    def load_data_list(self) -> list[dict[str, str]]:
        """Returns ``dict(img_path=...)`` for each sample; see :func:`shard_samples`."""
        samples = [
            sample
            for name in self._shards()
            for sample in shard_samples(
                os.path.join(self.img_prefix, name), self.extensions
            )
        ]
        faults = [
            f"{sample['img_path']!r}: {sample['fault']}"
            for sample in samples
            if "fault" in sample
        ]
        if len(faults) == len(samples):
            raise ValueError(
                f"no image in the shards of {self.img_prefix!r}; "
                f"{faults[0] if faults else 'they hold no sample'}. Images are files "
                f"with a suffix out of {', '.join(self.extensions)}, from the first "
                "dot on; set extensions"
            )
        if faults:  # what was lost with the rest of a shard nobody can count
            text = f"{len(faults)} samples or ends of shards, such as {faults[0]}"
            print_log(f"no image in {text}", "current", logging.WARNING)
        return samples

    def _load(self, idx: int) -> dict[str, Any]:
        info = self.get_data_info(idx)
        if "fault" in info:
            raise BrokenImageError(info["img_path"], info["fault"])
        return super()._load(idx)

    def _shards(self) -> list[str]:
        """Names of the shards, sorted or as listed."""
        self._check_folder(self.img_prefix)
        suffixes = (".tar", *COMPRESSED)
        if self.ann_file:
            names = read_image_list(self.ann_file, suffixes)
            self._probe_list(names)
        else:
            names, _ = list_images(self.img_prefix, suffixes)
        compressed = [name for name in names if name.lower().endswith(COMPRESSED)]
        if compressed:
            raise ValueError(
                f"{compressed[0]!r} in {self.img_prefix!r} is compressed, as are "
                f"{len(compressed)} of {len(names)} shards: to read an image, all "
                "before it would have to be unpacked, so that a run could neither "
                "shuffle nor go on where it was. "
                "Unpack them once (gunzip, bunzip2, unxz, unzstd); the images in them "
                "are compressed already"
            )
        if not names:
            raise ValueError(
                f"no shard (*.tar) in {self.img_prefix!r}; data_root and data_prefix "
                "must give the folder of the shards"
            )
        return names
