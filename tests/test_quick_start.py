"""The quick start in the pages runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_folders import write_class_folders
from mmpretrain.registry import MODELS
from PIL import Image
from tiny import tiny_backbone

from saim_mm.weights import write_state_dict

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "commands.md"]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    if "saim_mm.load_encoder" in block
]


def test_there_is_one() -> None:
    assert BLOCKS


@pytest.mark.parametrize("block", BLOCKS)
def test_six_lines(block: str, tmp_path: Path, monkeypatch) -> None:
    assert len(block.strip().splitlines()) == 6
    torch.manual_seed(0)
    options = tiny_backbone((32, 48), (16, 16), embed_dims=64, num_heads=1)
    write_state_dict(tmp_path / "encoder.pth", MODELS.build(options).state_dict())
    write_class_folders(tmp_path / "photos")
    for name in "ab":
        Image.new("RGB", (60, 40)).save(tmp_path / "photos" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102
    assert names["vectors"].shape == (2, 64)
    assert names["maps"].shape == (2, 64, 2, 3)
    mean = names["maps"].flatten(2).mean(dim=2)
    torch.testing.assert_close(mean, names["vectors"])
    with np.load("photos.npz") as file:
        assert file["features"].shape == (20, 64)
        assert file["names"][:2].tolist() == ["a.jpg", "b.jpg"]
        rows = torch.from_numpy(file["features"][:2])
    torch.testing.assert_close(rows, names["vectors"], rtol=0, atol=2e-6)
