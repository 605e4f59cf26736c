"""Where nothing can be written is told before any work, by every verb."""

from __future__ import annotations

from pathlib import Path

import pytest

from saim_mm import api

CONFIG = "mmpretrain::resnet/resnet18_8xb16_cifar10.py"


def call(verb: str, folder: Path, out: Path) -> None:
    """With an encoder that is missing: it would be read next."""
    encoder = folder / "none.pth"
    if verb == "adapt":
        api.adapt(CONFIG, encoder, out)
    elif verb == "report":
        api.report(folder, out)
    elif verb == "export":
        api.export(encoder, out)
    elif verb == "convert":
        api.convert(encoder, out)
    else:
        getattr(api, verb)(encoder, folder, out)


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("adapt", "child.py"),
        ("report", "page.html"),
        ("export", "encoder.pt2"),
        ("convert", "encoder.pth"),
        ("embed", "features.npz"),
        ("knn", "mistakes.png"),
        ("probe", "mistakes.png"),
    ],
)
def test_nothing_can_be_written(verb: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / name
    with pytest.raises(OSError, match=f"{out}: cannot be written"):
        call(verb, tmp_path, out)


@pytest.mark.parametrize(
    ("verb", "name"), [("report", "pages"), ("knn", "a.png"), ("probe", "a.png")]
)
def test_a_folder_is_no_file(verb: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        call(verb, tmp_path, tmp_path / name)


def test_one_image_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(FileNotFoundError, match="is a file: give the folder"):
        api.embed(tmp_path / "none.pth", tmp_path / "a.jpg", tmp_path / "a.npz")


def test_images_have_a_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"image_size=\(0, 64\): give rows and"):
        api.adapt(CONFIG, tmp_path / "none.pth", image_size=(0, 64))
