"""Images without labels from a pack, which is a few large tar files."""

from __future__ import annotations

from pathlib import Path

from ..registry import register
from .image_files import read_image_list
from .tar_shards import (
    MANIFEST,
    Manifest,
    PackError,
    names_checksum,
    read_index,
    shard_path,
    tar_path,
)
from .unlabeled_images import UnlabeledImages


@register("dataset")
class PackedImages(UnlabeledImages):
    """The images of a pack that ``tools/dataset_converters/pack_images.py`` made.

    They come in the order, under the indices and, unless they were reduced, with the
    bytes that :class:`UnlabeledImages` has of the folder that was packed; so do crops
    and replacements of broken images. The transforms need no option: the path of an
    image says in which tar file, and where in it, the image lies.

    Takes the options of :class:`UnlabeledImages`. ``data_root`` and ``data_prefix``
    give the folder of the pack; ``ann_file``, if given, lists the members to use.

    Raises:
        FileNotFoundError: If there is no pack, or a file of it is missing.
        PackError: If it is not complete, or does not fit its index; a ``ValueError``.
    """

    def load_data_list(self) -> list[dict[str, str]]:
        """Returns ``dict(img_path=...)`` for each image."""
        paths = read_pack(Path(self.img_prefix))
        if not self.ann_file:
            return [dict(img_path=path) for path in paths.values()]
        names = read_image_list(self.ann_file, self.extensions)
        strange = [name for name in names if name not in paths]
        if strange:
            raise PackError(
                f"{self.ann_file!r} lists {strange[0]!r}, and {len(strange) - 1} more, "
                f"which the pack in {self.img_prefix!r} does not hold; list members as "
                "`tar tf` shows them"
            )
        return [dict(img_path=paths[name]) for name in names]


def read_pack(folder: Path) -> dict[str, str]:
    """The path of each image of a pack, by its name and in its order.

    Errors are those of :class:`PackedImages`.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no {MANIFEST}; data_root and data_prefix must give "
            "the folder that tools/dataset_converters/pack_images.py wrote"
        )
    manifest = Manifest.read(folder)
    if not manifest.complete:
        raise PackError(
            f"the pack in {str(folder)!r} is not complete; repeat the command that "
            "packs it, which goes on where it stopped"
        )
    paths = {}
    for number in range(manifest.shards):
        shard = shard_path(folder, number)
        for member in read_index(shard):
            path = tar_path(shard, member.offset, member.size, member.name)
            paths[member.name] = path
    names = len(paths), names_checksum(paths)
    if names != (manifest.images, manifest.names_sha256):
        raise PackError(
            f"the tar files in {str(folder)!r} do not hold the {manifest.images} "
            f"images that {MANIFEST} speaks of; files of two packs may be mixed"
        )
    return paths
