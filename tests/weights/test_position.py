"""Position embeddings: whether their first row belongs to a class token."""

from __future__ import annotations

import pytest
import torch

from saim_mm.weights.position import fit_position_embedding, has_class_row


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
