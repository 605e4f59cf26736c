"""Small copies of photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from saim_mm.datasets.sample_photos import NoPhotosError, copy_small, find_photos


def test_of_very_many_images_some_are_drawn(tmp_path: Path) -> None:
    for i in range(9):
        (tmp_path / f"{i}.jpg").touch()
    photos, total = find_photos(tmp_path, limit=3)
    assert len(set(photos)) == 3
    assert total == 9
    assert (photos, total) == find_photos(str(tmp_path), limit=3)
    assert find_photos(tmp_path, limit=9) == (sorted(tmp_path.iterdir()), 9)


def test_copies_are_small_and_keep_their_shape(tmp_path: Path) -> None:
    shapes = dict(wide=(512, 1024, 3), tiny=(1, 5))
    for name, shape in shapes.items():
        photo = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), photo)
    (tmp_path / "broken.png").write_bytes(b"no image")
    sources = [tmp_path / f"{name}.png" for name in ("wide", "broken", "tiny")]
    (problem,) = copy_small(sources, tmp_path / "copies")
    assert "broken.png': " in problem
    copies = sorted((tmp_path / "copies").iterdir())
    assert [copy.name for copy in copies] == ["0000_wide.jpg", "0002_tiny.jpg"]
    assert [cv2.imread(str(c)).shape for c in copies] == [(256, 512, 3), (1, 5, 3)]
    with pytest.raises(NoPhotosError, match="none of the 1 images"):
        copy_small(sources[1:2], tmp_path / "none")
