"""Position embeddings: their class token's row, their grid, another grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import get_state_dict, save_checkpoint
from mmpretrain.registry import MODELS
from tiny import tiny_backbone
from torch import Tensor, nn

from saim_mm.models.saim_vit import sincos_position_embedding
from saim_mm.parity.convert_files import convert_encoder_to_hf, convert_hf_to_encoder
from saim_mm.weights import (
    CheckpointError,
    encoder_to_timm,
    finetuned_to_release,
    load_encoder,
    read_state_dict,
    release_to_finetuned,
    timm_to_encoder,
    write_state_dict,
)
from saim_mm.weights.arch import infer_arch
from saim_mm.weights.position import (
    fit_position_embedding,
    has_class_row,
    infer_grid,
    noted_grid,
    with_note,
)

COLUMN, SQUARE = (16, 1), (4, 4)
Grid = tuple[int, int]


def vit(grid: Grid, kind: str = "SAIMViT", **options: Any) -> Any:
    """A tiny ViT of so many rows and columns of patches; trained positions."""
    torch.manual_seed(0)
    image_size = (grid[0] * 4, grid[1] * 4)
    config = {**tiny_backbone(image_size=image_size, **options), "type": kind}
    model = MODELS.build(config)
    nn.init.normal_(model.pos_embed)
    return model


def resized(pos_embed: Tensor, source: Grid, target: Grid) -> Tensor:
    """The patches' rows of (1, 1 + N, D), resized in two dimensions."""
    image = pos_embed[:, 1:].reshape(1, *source, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=target, mode="bicubic", align_corners=False)
    return image.flatten(2).transpose(1, 2)


def through_mmengine(model: nn.Module, path: Path) -> Path:
    save_checkpoint({"state_dict": get_state_dict(model)}, str(path))
    return path


def through_ours(model: nn.Module, path: Path) -> Path:
    write_state_dict(path, model.state_dict())
    return path


def through_safetensors(model: nn.Module, path: Path) -> Path:
    pytest.importorskip("safetensors", reason="safetensors is an optional extra")
    return through_ours(model, path.with_suffix(".safetensors"))


def through_timm(model: nn.Module, path: Path) -> Path:
    """There and back, each time through a file."""
    write_state_dict(path, encoder_to_timm(model.state_dict()).state_dict, None)
    write_state_dict(path, timm_to_encoder(read_state_dict(path)).state_dict)
    return path


def through_wrappers(model: nn.Module, path: Path) -> Path:
    return through_ours(nn.DataParallel(model), path)


def through_release(model: nn.Module, path: Path) -> Path:
    """There and back as a classifier; its encoder lies under ``backbone.``."""
    state = {f"backbone.{k}": t for k, t in model.state_dict().items()}
    for name in ("backbone.ln1.weight", "backbone.ln1.bias"):
        state[name] = torch.ones(16)
    state.update({"head.fc.weight": torch.ones(3, 16), "head.fc.bias": torch.ones(3)})
    release = finetuned_to_release(with_note(state, COLUMN)).state_dict
    write_state_dict(path, release, "model")
    ours = release_to_finetuned(read_state_dict(path)).state_dict
    rest = {k: t for k, t in ours.items() if not k.startswith("head.")}
    noted = {k.removeprefix("backbone."): t for k, t in rest.items()}
    assert noted_grid(ours._metadata, "backbone.") == COLUMN  # type: ignore[attr-defined]
    write_state_dict(path, with_note(noted, COLUMN))
    return path


@pytest.mark.parametrize(
    ("rows", "token", "patches", "expected"),
    [
        (17, True, 16, True),
        (16, True, 16, True),  # the token counts, whatever the rows
        (16, False, 16, False),
        (12, False, 12, False),  # no square, but as many as the model's patches
        # The odd case: the token was dropped, and its row was not.
        (17, False, 16, True),  # one more than the model's patches
        (16, False, 15, True),  # even if that is a square
        (17, False, 64, True),  # for another grid: no square
        (16, False, 64, False),  # for another grid: a square
    ],
)
def test_has_class_row(rows: int, token: bool, patches: int, expected: bool) -> None:
    state = {"a.pos_embed": torch.zeros(1, rows, 4)}
    if token:
        state["a.cls_token"] = torch.zeros(1, 1, 4)
    assert has_class_row(state, "a.", patches) is expected


@pytest.mark.parametrize("grid", [(4, 4), (8, 8)])
def test_the_row_of_a_dropped_token_goes(grid: tuple[int, int]) -> None:
    """Or the patches would shift by one."""
    torch.manual_seed(0)
    rows = torch.randn(1, 17, 4)
    fitted, expected = (
        fit_position_embedding({"pos_embed": x}, "", grid, 0, "bicubic")
        for x in (rows, rows[:, 1:])
    )
    assert torch.equal(fitted, expected)
    assert fitted.shape == (1, grid[0] * grid[1], 4)


@pytest.mark.parametrize("target", [(4, 4), (8, 8), (2, 8), (1, 16), (16, 2), (7, 3)])
@pytest.mark.parametrize(
    "through",
    [
        through_mmengine,
        through_ours,
        through_safetensors,
        through_timm,
        through_wrappers,
        through_release,
    ],
)
def test_a_column_of_patches_stays_one(
    through: Callable[[nn.Module, Path], Path], target: Grid, tmp_path: Path
) -> None:
    """Whoever wrote the file, and though 16 is a square: it says its grid."""
    source = vit(COLUMN)
    path = through(source, tmp_path / "file.pth")
    expected = resized(source.pos_embed, COLUMN, target)
    for kind in ("SAIMViT", "VisionTransformer"):
        model = vit(target, kind)
        load_encoder(model, path)
        torch.testing.assert_close(model.pos_embed[:, 1:], expected, rtol=0, atol=0)
    assert infer_arch(read_state_dict(path), num_heads=4).grid == COLUMN


def test_the_config_of_hugging_face_says_the_grid(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is an optional extra")
    source = vit(COLUMN, final_norm=True)
    write_state_dict(tmp_path / "x.pth", source.state_dict())
    assert convert_encoder_to_hf(tmp_path / "x.pth", tmp_path / "hf", 2).passed
    assert convert_hf_to_encoder(tmp_path / "hf", tmp_path / "y.pth").passed
    model = vit((8, 8), final_norm=True)
    load_encoder(model, tmp_path / "y.pth")
    expected = resized(source.pos_embed, COLUMN, (8, 8))
    torch.testing.assert_close(model.pos_embed[:, 1:], expected, rtol=0, atol=0)


def test_a_state_dict_says_its_grid_to_any_load() -> None:
    source, model = vit(COLUMN), vit((8, 8))
    model.load_state_dict(source.state_dict())
    expected = resized(source.pos_embed, COLUMN, (8, 8))
    torch.testing.assert_close(model.pos_embed[:, 1:], expected, rtol=0, atol=0)
    whole = nn.ModuleDict({"backbone": vit((8, 8))})
    whole.load_state_dict(nn.ModuleDict({"backbone": source}).state_dict())
    assert torch.equal(whole["backbone"].pos_embed, model.pos_embed)
    assert source.state_dict().keys() == dict(source.named_parameters()).keys()


@pytest.mark.parametrize(
    ("count", "like", "readings"),
    [
        (16, (32, 1), "4 x 4 or 16 x 1"),
        (25, (1, 7), "1 x 25 or 5 x 5"),
        (16, (2, 8), "2 x 8 or 4 x 4"),  # as many as the model's, of another file
        (64, (8, 2), "8 x 8 or 16 x 4"),
        (32, (5, 7), "no square"),
    ],
)
def test_several_readings_are_refused(count: int, like: Grid, readings: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(CheckpointError) as refusal:
        infer_grid(torch.randn(count, 16), like, same_model=False)
    assert f"{count} patches: {readings}?" in str(refusal.value)
    assert "model.backbone.init_cfg.grid=" in str(refusal.value)


@pytest.mark.parametrize(
    ("count", "like", "grid"),
    [(17, (32, 1), (17, 1)), (6, (1, 9), (1, 6)), (16, (5, 7), (4, 4))],
)
def test_a_single_reading_counts(count: int, like: Grid, grid: Grid) -> None:
    torch.manual_seed(0)
    assert infer_grid(torch.randn(count, 16), like, same_model=False) == grid


def test_the_config_may_give_the_grid(tmp_path: Path) -> None:
    source, path = vit(COLUMN), tmp_path / "file.pth"
    write_state_dict(path, dict(source.state_dict()))  # without the note
    init_cfg = dict(type="Pretrained", checkpoint=str(path))
    with pytest.raises(CheckpointError, match="4 x 4 or 16 x 1"):
        vit((32, 1), init_cfg=init_cfg).init_weights()
    for grid in (COLUMN, SQUARE):
        model = vit((32, 1), init_cfg={**init_cfg, "grid": grid})
        model.init_weights()
        expected = resized(source.pos_embed, grid, (32, 1))
        torch.testing.assert_close(model.pos_embed[:, 1:], expected, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"grid=\(3, 5\) has 15 patches.*17 rows"):
        load_encoder(vit((8, 8)), path, grid=(3, 5))


@pytest.mark.parametrize("grid", [(3, 4), COLUMN, (1, 6)])
@pytest.mark.parametrize("noted", [False, True])
def test_without_class_token_no_row_is_lost(grid: Grid, noted: bool) -> None:
    """12 rows are no square, which is no sign of a class token's among them."""
    torch.manual_seed(0)
    count = grid[0] * grid[1]
    positions = torch.randn(count, 16) if noted else sincos_position_embedding(grid, 16)
    source = grid if noted else None
    state = {"pos_embed": positions[None]}
    fitted = fit_position_embedding(state, "", (8, 8), 0, "bicubic", source)
    padded = torch.cat([torch.zeros(1, 1, 16), positions[None]], dim=1)
    torch.testing.assert_close(fitted, resized(padded, grid, (8, 8)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "note", [None, 7, "ab", [4], [4, "4"], [-4, -4], [0, 16], [2.0, 8.0], [True, 16]]
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_note_that_is_none_is_passed_over(
    note: Any, whole: bool, tmp_path: Path
) -> None:
    state = vit(SQUARE).state_dict()
    state._metadata = {"": note} if whole else {"": {"grid": note}}
    torch.save({"state_dict": state}, tmp_path / "file.pth")
    found = read_state_dict(tmp_path / "file.pth")
    assert noted_grid(found._metadata) is None  # type: ignore[attr-defined]
    model = vit(SQUARE)
    model.load_state_dict(found)
    load_encoder(model, tmp_path / "file.pth")
    assert torch.equal(model.pos_embed, state["pos_embed"])
