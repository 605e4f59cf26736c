"""The suite's training and judging."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from projects.small_scale_cifar10.experiments import EXPERIMENTS
from projects.small_scale_cifar10.images import DataSplit, Images, normalise
from projects.small_scale_cifar10.judging import _encoder, frozen_figures, judge
from projects.small_scale_cifar10.loop import schedule
from projects.small_scale_cifar10.models import encoder_config, model_config
from projects.small_scale_cifar10.operations import step_flops
from projects.small_scale_cifar10.scale import PRESETS
from projects.small_scale_cifar10.systems import SYSTEMS
from projects.small_scale_cifar10.training import (
    LOCAL_CROPS,
    _simmim_loss,
    build,
    copy_encoder,
    pretrain,
)
from saim_mm.evaluation import View


@pytest.fixture
def coloured() -> Any:
    """40 images of two classes, dark and bright."""
    labels = torch.arange(40) % 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 100, (40, 3, 32, 32), generator=generator)
    pixels = noise + 120 * labels[:, None, None, None]
    return Images(pixels.to(torch.uint8), labels)


@pytest.mark.parametrize("name", ["saim", "raster", "mae", "simmim", "supervised"])
def test_training_lowers_the_loss_of_every_kind(
    tiny: Any, coloured: Any, name: str
) -> None:
    scale = replace(tiny, pretrain_epochs=6)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    experiment = EXPERIMENTS[name]
    trained = pretrain(experiment, scale, 4e-3, None, coloured, generator)
    assert trained.images_seen == 6 * 40
    assert len(trained.losses) == 20
    assert sum(trained.losses[-4:]) < 0.95 * sum(trained.losses[:4])


@pytest.mark.parametrize("name", [n for n in SYSTEMS if n != "random"])
def test_every_system_spends_its_budget_and_no_more(name: str, coloured: Any) -> None:
    """And its encoder is judged as it was trained."""
    scale = PRESETS["tiny-equal"]
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    budget = 2e8
    encoder, trained = _encoder(SYSTEMS[name], scale, 1e-3, budget, coloured, generator)
    flops = step_flops(trained.model, LOCAL_CROPS)
    steps = trained.images_seen / scale.batch_size
    assert steps == max(1, round(steps))
    assert abs(flops * scale.batch_size * steps - budget) <= flops * scale.batch_size
    assert all(map(math.isfinite, trained.losses))
    source = trained.model.backbone.state_dict()
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, source[key]), key
    assert encoder.final_norm == (name in ("mae", "simmim", "dino"))


def test_dino_moves_teacher_and_centre_by_the_hook(coloured: Any) -> None:
    """The less a step keeps of the teacher, the nearer it is to its student."""
    scale, apart = PRESETS["tiny-equal"], []
    for momentum in (1.0, 0.9, 0.1):
        torch.manual_seed(0)
        hooks = [dict(type="DINOHook", momentum=momentum)]
        experiment = SYSTEMS["dino"].changed(dict(hooks=hooks))
        generator = torch.Generator().manual_seed(0)
        model = pretrain(experiment, scale, 1e-3, 2e9, coloured, generator).model
        student = model.student["backbone"].layers[0].ffn.layers[1].weight
        apart.append((student - model.backbone.layers[0].ffn.layers[1].weight).norm())
        assert model.head.center.abs().max() > 0
    assert apart[0] > apart[1] > apart[2]


def test_same_seed_same_figures_and_another_seed_others(
    tiny: Any, coloured: Any
) -> None:
    data = DataSplit(coloured, coloured, coloured)
    experiment = EXPERIMENTS["stochastic"]
    runs = [
        judge(experiment, tiny, seed, 1e-3, None, data, tuning=True)
        for seed in (0, 0, 1)
    ]
    assert runs[0]["losses"] == runs[1]["losses"] != runs[2]["losses"]
    assert runs[0]["linear"] == runs[1]["linear"]


def test_judging_takes_the_test_images_and_tuning_those_held_out(
    tiny: Any, coloured: Any
) -> None:
    """Labels turned round make one of the two hopeless."""
    wrong = Images(coloured.pixels, 1 - coloured.labels)
    experiment = EXPERIMENTS["random"]
    for tuning in (False, True):
        good, bad = (wrong, coloured) if tuning else (coloured, wrong)
        data = DataSplit(coloured, bad, good)
        figures = judge(experiment, tiny, 0, None, None, data, tuning)
        assert figures["knn"] > 90 and figures["linear"] > 90
        for name in ("finetune", "linear_best", "attentive"):
            assert (name in figures) is not tuning
        assert "losses" not in figures  # nothing was trained


@pytest.mark.parametrize("name", ["saim", "mae", "simmim", "supervised"])
def test_encoder_is_the_one_that_was_trained(
    tiny: Any, coloured: Any, name: str
) -> None:
    """And keeps the final norm exactly where pretraining had one."""
    generator = torch.Generator().manual_seed(0)
    experiment = EXPERIMENTS[name]
    encoder, trained = _encoder(experiment, tiny, 1e-3, None, coloured, generator)
    source = trained.model.backbone.state_dict()
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, source[key]), key
    assert encoder.final_norm == (name in ("mae", "simmim"))


def test_probes_read_the_means_of_the_patches(tiny: Any, coloured: Any) -> None:
    """After the final norm; labels by the sign of one channel tell."""
    encoder = build(encoder_config(tiny, final_norm=True))
    encoder.eval()
    tokens = encoder(normalise(coloured.pixels))[0]
    assert tokens.shape == (40, 65, 16)
    seen = {}

    class Spy:
        def views(self, num_layers: int) -> list[View]:
            return [View((num_layers - 1,), "avg")]

        def judge(self, train: Any, val: Any, num_layers: int) -> dict[str, float]:
            (features,) = train.values()
            seen["vectors"] = features.vectors
            return {"accuracy/linear_cls": 1.0, "linear_best_cls/layer": 2.0}

    figures = frozen_figures(encoder, [Spy()], coloured, coloured)
    torch.testing.assert_close(seen["vectors"], tokens[:, 1:].mean(dim=1))
    assert figures == {"linear": 1.0, "linear_best/layer": 2.0}


def test_an_encoder_of_another_depth_is_refused(tiny: Any) -> None:
    deep = build(encoder_config(replace(tiny, depth=3)))
    shallow = build(encoder_config(tiny))
    with pytest.raises(ValueError, match="lacks.*layers.2"):
        copy_encoder(shallow, deep)


def test_simmim_hides_blocks_as_its_generator_does(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = model_config(EXPERIMENTS["simmim"], tiny)
    model = build(config)
    masks = []

    def loss(images: Tensor, samples: list) -> dict[str, Tensor]:
        masks.extend(sample.mask for sample in samples)
        return dict(loss=images.sum())

    monkeypatch.setattr(model, "loss", loss)
    _simmim_loss(model, [torch.zeros(50, 3, 32, 32)], None, share=0.6)
    mask = torch.stack(masks)
    assert mask.shape == (50, 8, 8)
    blocks = mask.view(50, 4, 2, 4, 2)
    assert torch.equal(blocks.amax((2, 4)), blocks.amin((2, 4)))
    assert (mask.sum((1, 2)) == 4 * math.ceil(0.6 * 16)).all()
    assert len({one.numpy().tobytes() for one in mask}) > 40


def test_schedule_warms_up_and_falls_along_a_cosine() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1 and rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3
