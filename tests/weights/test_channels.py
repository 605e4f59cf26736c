"""Weights of colours in an encoder of other channels: by a formula, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmpretrain.registry import MODELS
from tiny import randomise, tiny_backbone

from saim_mm.models import SAIMViT
from saim_mm.weights import CheckpointError, load_encoder
from saim_mm.weights.channels import fit_channels

KERNEL = "patch_embed.projection.weight"


def encoder(channels: int, seed: int = 0, **options) -> SAIMViT:
    model = MODELS.build(tiny_backbone(channels=channels, **options))
    randomise(model, seed)
    model.eval()
    return model


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    path = tmp_path / "colours.pth"
    torch.save(encoder(3).state_dict(), path)
    return path


def test_repeat_is_the_stated_formula() -> None:
    kernel = torch.arange(3.0).add(1).view(1, 3, 1, 1)  # 1, 2, 3
    by_count = {
        1: [6],  # the sum
        2: [1 + 3, 2],
        3: [1, 2, 3],
        4: [1 / 2, 2, 3, 1 / 2],
        6: [1 / 2, 1, 3 / 2, 1 / 2, 1, 3 / 2],
        7: [1 / 3, 1, 3 / 2, 1 / 3, 1, 3 / 2, 1 / 3],
    }
    for count, wanted in by_count.items():
        got = fit_channels(kernel, torch.zeros(1, count, 1, 1), "repeat")
        torch.testing.assert_close(got.flatten(), torch.tensor(wanted, dtype=got.dtype))
        got = fit_channels(kernel, torch.zeros(1, count, 1, 1), "mean")
        torch.testing.assert_close(got.flatten(), torch.full((count,), 6 / count))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("fit", ["repeat", "mean"])
def test_grey_images_have_the_same_features(
    fit: str, channels: int, colours: Path
) -> None:
    model = encoder(channels, seed=1)
    report = load_encoder(model, colours, channels=fit)
    assert f"3 channels fitted to {channels} by '{fit}'" in str(report)
    grey = torch.randn(2, 1, 8, 12)
    with torch.no_grad():
        wanted = encoder(3)(grey.expand(-1, 3, -1, -1))[0]
        got = model(grey.expand(-1, channels, -1, -1))[0]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_random_keeps_the_initial_kernel_alone(colours: Path) -> None:
    model = encoder(13, seed=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    load_encoder(model, colours, channels="random")
    for key, tensor in model.state_dict().items():
        wanted = before if key == KERNEL else encoder(3).state_dict()
        assert torch.equal(tensor, wanted[key])


@pytest.mark.parametrize("fit", ["repeat", "mean", "random"])
def test_the_same_channels_are_loaded_as_they_are(fit: str, colours: Path) -> None:
    model = encoder(3, seed=1)
    load_encoder(model, colours, channels=fit)
    assert torch.equal(model.state_dict()[KERNEL], encoder(3).state_dict()[KERNEL])


def test_other_channels_are_refused_unless_asked_for(colours: Path) -> None:
    with pytest.raises(CheckpointError, match="init_cfg.channels says how"):
        load_encoder(encoder(13), colours)
    with pytest.raises(ValueError, match="channels='zero' is unknown"):
        load_encoder(encoder(13), colours, channels="zero")


@pytest.mark.parametrize("fit", ["repeat", "mean", "random"])
def test_other_patches_are_refused_all_the_same(fit: str, colours: Path) -> None:
    model = encoder(13, patch_size=(2, 4))
    before = model.state_dict()[KERNEL].clone()
    with pytest.raises(CheckpointError, match=r"patch size \(4, 4\) and 3 image"):
        load_encoder(model, colours, channels=fit)
    assert torch.equal(model.state_dict()[KERNEL], before)


def test_a_config_asks_for_it(colours: Path) -> None:
    init = dict(type="Pretrained", checkpoint=str(colours))
    options = tiny_backbone(channels=13, init_cfg=init)
    with pytest.raises(CheckpointError, match="init_cfg.channels"):
        MODELS.build(options).init_weights()
    options["init_cfg"] = dict(init, channels="mean")
    model = MODELS.build(options)
    model.init_weights()
    wanted = encoder(3).state_dict()[KERNEL].sum(1, keepdim=True) / 13
    torch.testing.assert_close(
        model.state_dict()[KERNEL], wanted.expand(-1, 13, -1, -1)
    )


def test_so_does_an_encoder_in_a_detector(colours: Path) -> None:
    """MultiLevelViT hands the option on."""
    options = tiny_backbone(channels=5)
    for name in ("type", "final_norm", "out_type"):
        del options[name]
    init = dict(type="Pretrained", checkpoint=str(colours), channels="repeat")
    backbone = MODELS.build(
        dict(
            type="MultiLevelViT",
            encoder=options,
            out_channels=(8, 8),
            out_strides=(4, 8),
            init_cfg=init,
        )
    )
    backbone.init_weights()
    kernel = backbone.encoder.state_dict()[KERNEL]
    wanted = encoder(3).state_dict()[KERNEL]
    torch.testing.assert_close(kernel.sum(1), wanted.sum(1))
    assert [level.shape[1] for level in backbone(torch.randn(1, 5, 8, 12))] == [8, 8]
