"""Windowed attention: one window is the plain ViT, and cost is linear in windows."""

from __future__ import annotations

import copy

import pytest
import torch
from mmpretrain.models import VisionTransformer
from torch import Tensor

from saim_mm.models import SAIMViT
from saim_mm.models.dense.windows import RelativePositionBias, Windows

ARCH = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)


def dense_vit(**options: object) -> SAIMViT:
    torch.manual_seed(0)
    model = SAIMViT(
        **{
            **dict(
                arch=ARCH, img_size=64, patch_size=8, out_type="featmap",
                out_indices=[1, 3], with_cls_token=False, final_norm=False,
            ),
            **options,
        }
    )  # fmt: skip
    model.init_weights()
    return model


@pytest.mark.parametrize(("grid", "size"), [((8, 8), 4), ((5, 7), 3), ((3, 4), 8)])
def test_join_inverts_split(grid: tuple[int, int], size: int) -> None:
    windows = Windows(grid, size)
    x = torch.randn(2, grid[0] * grid[1], 6)
    parts = windows.split(x)
    count = -(-grid[0] // size) * -(-grid[1] // size)
    assert parts.shape == (2 * count, size * size, 6)
    assert torch.equal(windows.join(parts), x)


def test_split_is_the_windows_of_the_picture() -> None:
    x = torch.arange(2 * 4 * 6).float().view(2, 24, 1)
    parts = Windows((4, 6), 2).split(x).view(2, 2, 3, 2, 2)
    picture = x.view(2, 4, 6)
    for i in range(2):
        for j in range(3):
            window = picture[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            assert torch.equal(parts[:, i, j], window)


def test_one_window_is_the_plain_vit_exactly() -> None:
    plain, windowed = dense_vit(), dense_vit(window_size=8)
    windowed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(plain(x), windowed(x), strict=True):
        assert torch.equal(a, b)


def test_plain_is_mmpretrains_vit_at_another_size() -> None:
    plain = dense_vit(use_rel_pos_bias=True)  # at zero it changes nothing
    theirs = VisionTransformer(
        arch=ARCH, img_size=64, patch_size=8, out_type="featmap", out_indices=[1, 3],
        with_cls_token=False, final_norm=False,
    )  # fmt: skip
    state = {k: v for k, v in plain.state_dict().items() if "rel_pos" not in k}
    theirs.load_state_dict(state)
    x = torch.randn(2, 3, 48, 80)
    for a, b in zip(plain(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_tokens_see_their_window_and_global_layers_see_all() -> None:
    """Gradient of one token's feature to the pixels, window by window."""

    def seen(model: SAIMViT) -> Tensor:
        x = torch.randn(1, 3, 64, 64, requires_grad=True)
        model(x)[-1][0, :, 0, 0].sum().backward()
        return x.grad[0].abs().sum(0).view(2, 32, 2, 32).sum((1, 3)) > 0

    assert seen(dense_vit(window_size=4)).tolist() == [[True, False], [False, False]]
    assert seen(dense_vit(window_size=4, global_attn_indexes=[2])).all()


def test_drop_path_drops_images_and_not_windows() -> None:
    model = dense_vit(window_size=4, drop_path_rate=0.5)
    layer = model.layers[-1].train()
    layer.ffn.dropout_layer.drop_prob = 0.0
    torch.nn.init.zeros_(layer.ffn.layers[1].weight)
    torch.manual_seed(1)
    x = torch.randn(16, 64, 32)
    changed = (layer(x, windows=Windows((8, 8), 4)) - x).abs().sum(-1) > 0
    per_image = changed.float().mean(1)
    assert set(per_image.tolist()) == {0.0, 1.0}


def test_relative_position_bias_is_a_function_of_the_offset() -> None:
    bias = RelativePositionBias((3, 4), num_heads=2)
    torch.nn.init.normal_(bias.table)
    full = bias((3, 4))[0].view(2, 3, 4, 3, 4)
    for r, c, i, j in [(0, 0, 2, 3), (1, 2, 0, 1), (2, 3, 2, 3), (0, 3, 2, 0)]:
        expected = bias.table[:, r - i + 2, c - j + 3]
        assert torch.equal(full[:, r, c, i, j], expected)
    assert bias((5, 6)).shape == (1, 2, 30, 30)


def test_bias_tables_are_shared_and_learn() -> None:
    model = dense_vit(window_size=4, global_attn_indexes=[1], use_rel_pos_bias=True)
    tables = {n: p for n, p in model.named_parameters() if "rel_pos" in n}
    assert {n: tuple(p.shape) for n, p in tables.items()} == {
        "rel_pos_bias_window.table": (2, 7, 7),
        "rel_pos_bias_global.table": (2, 15, 15),
    }
    sum(out.square().sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad.abs().sum() > 0 for p in tables.values())


def test_odd_sizes_are_padded_and_cut() -> None:
    model = dense_vit(window_size=3, global_attn_indexes=[1], use_rel_pos_bias=True)
    first, last = model(torch.randn(2, 3, 56, 88))
    assert first.shape == last.shape == (2, 32, 7, 11)


def test_activation_checkpointing_gives_equal_gradients() -> None:
    from mmengine.runner.activation_checkpointing import (
        turn_on_activation_checkpointing,
    )

    plain = dense_vit(window_size=4, global_attn_indexes=[1], use_rel_pos_bias=True)
    saving = copy.deepcopy(plain)
    names = [f"layers.{i}" for i in range(4)]
    turn_on_activation_checkpointing(saving, names)
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, saving):
        sum(out.square().sum() for out in model(x)).backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_attention_memory_is_linear_in_windows() -> None:
    """The largest score matrix has the size of a window, at any resolution."""
    model = dense_vit(window_size=4)
    tokens = []
    for layer in model.layers:
        layer.attn.proj.register_forward_hook(
            lambda _, args, out: tokens.append(tuple(args[0].shape[:2]))
        )
    for side, count in ((64, 4), (128, 16)):
        tokens.clear()
        model(torch.randn(1, 3, side, side))
        assert set(tokens) == {(count, 16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(window_size=-1), "at least 0"),
        (dict(window_size=4, global_attn_indexes=[4]), "between 0 and 3"),
        (dict(global_attn_indexes=[1]), "set window_size"),
        (dict(window_size=4, with_cls_token=True), "with_cls_token=False"),
        (dict(use_rel_pos_bias=True, with_cls_token=True), "with_cls_token=False"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_vit(**options)
