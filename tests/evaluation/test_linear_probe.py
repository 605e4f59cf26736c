"""The quick linear probe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from class_folders import launch, write_checkpoint, write_class_folders
from run_tool import run_tool

from saim_mm.evaluation import Features, ProbeRecipe, linear_probe
from saim_mm.evaluation.linear_probe import build_probe, fit

TOOL = Path(__file__).parents[2] / "tools/analysis_tools/linear_probe.py"


def blobs(number: int, seed: int, noise: float = 0.3) -> Features:
    """Three classes around three centres, on axes of very different scale."""
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 3
    vectors = centres[labels] + noise * torch.randn(number, 8, generator=generator)
    return Features(vectors * torch.logspace(-3, 3, 8) + 50, labels)


def test_separates_what_is_separable_at_any_scale() -> None:
    result = linear_probe(blobs(300, 0), blobs(90, 1))
    assert result.accuracy == 100
    assert result.train_accuracy == 100


def test_noise_stays_at_chance() -> None:
    val = blobs(300, 1)
    shuffled = Features(val.vectors, val.labels[torch.randperm(300)])
    assert 20 < linear_probe(blobs(300, 0), shuffled).accuracy < 47


def test_repeats_and_leaves_the_random_streams_alone() -> None:
    train, val = blobs(200, 0, noise=2.0), blobs(90, 1, noise=2.0)
    before = torch.get_rng_state()
    recipe = ProbeRecipe(epochs=5, batch_size=32)
    first = linear_probe(train, val, recipe)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert linear_probe(train, val, recipe) == first


def test_closed_form_of_one_full_batch_step() -> None:
    """One epoch of one batch: logits = norm(x) @ W with W from one gradient step."""
    train = blobs(30, 0)
    recipe = ProbeRecipe(epochs=1, batch_size=30, base_lr=1.0)
    x = train.vectors.double()
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-6).sqrt()
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) * 0.01
    weight = weight.double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T, train.labels)
    (gradient,) = torch.autograd.grad(loss, weight)
    weight = weight.detach() - 30 / 256 * gradient

    generator = torch.Generator().manual_seed(0)
    probe = build_probe(8, 3, generator)
    fit(probe, train, recipe, generator)
    torch.testing.assert_close(
        probe[1].weight.detach().double(), weight, atol=1e-6, rtol=1e-4
    )


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="least 2 and 1"):
        linear_probe(blobs(1, 0), blobs(9, 1))
    with pytest.raises(ValueError, match="epochs=0"):
        ProbeRecipe(epochs=0)


def test_tool(tmp_path: Path, capsys) -> None:
    write_checkpoint(tmp_path / "epoch_1.pth")
    data = write_class_folders(tmp_path / "data", val=None, train=6)
    arguments = [tmp_path / "epoch_1.pth", data, "--workers", 0]
    assert run_tool("analysis_tools.linear_probe", *arguments, "--val-share", 0.34) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["train_images"], result["val_images"]) == (12, 6)
    assert result["accuracy"] == 100

    assert run_tool("analysis_tools.linear_probe", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "--val-share" in error


@pytest.mark.slow
def test_tool_in_its_own_process(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "epoch_1.pth")
    data = write_class_folders(tmp_path / "data")
    done = launch(TOOL, tmp_path / "epoch_1.pth", data, "--workers", 0, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert '"accuracy"' in done.stdout
