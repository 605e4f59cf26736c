"""What is said of files that a person takes for checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_saim

from saim_mm.weights import CheckpointError, encoder_to_timm, read_state_dict
from saim_mm.weights.conversions import saim_to_encoder
from saim_mm.weights.hub_folder import find_weights


def test_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("hello\n")
    with pytest.raises(CheckpointError, match=r"plain tensors \(it does not begin as"):
        read_state_dict(tmp_path / "a.pth")


def test_an_archive_of_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.zeros(3))
    with pytest.raises(CheckpointError) as raised:
        read_state_dict(tmp_path / "a.npz")
    told = str(raised.value)
    assert "a ZIP archive that torch.save did not write" in told
    assert "run" not in told  # nobody need run what is in it


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "encoder.pth").touch()
    with pytest.raises(FileNotFoundError, match=f"give its {tmp_path}/encoder.pth"):
        find_weights(tmp_path)


def test_many_keys_are_not_all_told() -> None:
    model = tiny_saim(image_size=(8, 8))
    bare = saim_to_encoder(model.state_dict()).state_dict
    with pytest.raises(CheckpointError) as raised:
        saim_to_encoder(bare)
    told = str(raised.value)
    assert "it needs no prefix; 'saim-mm convert' takes it as --source encoder" in told
    assert f"unexpected keys ({len(bare)}): " in told
    assert told.endswith(f" and {len(bare) - 8} more.") and len(told) < 1000
    with pytest.raises(CheckpointError, match=r"unexpected keys \(1\): \['x'\]\."):
        encoder_to_timm({**bare, "x": torch.ones(1)})
