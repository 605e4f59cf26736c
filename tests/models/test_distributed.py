"""Two ranks make the step that one rank makes on the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmpretrain.structures import DataSample
from tiny import relative, tiny_images, tiny_saim
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from saim_mm.models import SAIM

WORLD_SIZE = 2
PER_RANK = 3
NUM_LAYERS = 12  # as in ViT-B, for every depth of Table 3

MODELS: dict[str, dict[str, Any]] = {
    **{f"own-{depth}": dict(depth=depth) for depth in (12, 6, 4, 3, 2, 1)},
    **{
        f"coupled-{depth}": dict(depth=depth, tied_decoder=True) for depth in (12, 3, 1)
    },
    "none": dict(order="raster", depth=0, projector="linear"),
    "raster": dict(order="raster", depth=4, loss="l1"),
    "segments": dict(order="segments", segment_size=(1, 3), depth=6),
    "transformer": dict(projector="transformer", depth=3, tied_decoder=True),
}


def _build(name: str) -> SAIM:
    return tiny_saim(num_layers=NUM_LAYERS, embed_dims=8, **MODELS[name])


def _joined_batch(model: SAIM) -> tuple[Tensor, Tensor]:
    size = WORLD_SIZE * PER_RANK
    generator = torch.Generator().manual_seed(0)
    images = tiny_images(model, size)
    return images, model.order_sampler.draw(size, images.device, generator)


def _gradients(model: SAIM) -> dict[str, Tensor]:
    """Gradients of all that is trained; a missing one is an error."""
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert [k for k, p in trained.items() if p.grad is None] == []
    return {k: p.grad for k, p in trained.items()}


def _rank(rank: int, folder: str) -> None:
    """One rank: two steps of every model, then the gradients go to a file.

    The second step matters: that is where DDP, told to look for no unused parameters,
    stops if the first has left any.
    """
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD_SIZE)
    mine = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    gradients, drawn = {}, {}
    for name in MODELS:
        model = _build(name)
        wrapped = DistributedDataParallel(model)
        images, order = (x[mine] for x in _joined_batch(model))
        samples = [DataSample() for _ in order]
        for sample, row in zip(samples, order, strict=True):
            sample.set_field(row, "order")
        for _ in range(2):
            model.zero_grad()
            wrapped(images, samples, mode="loss")["loss"].backward()
        gradients[name] = _gradients(model)
        torch.manual_seed(0)  # all ranks alike, as MMEngine does by default
        drawn[name] = model.order_sampler.draw(PER_RANK, images.device)
    torch.save((gradients, drawn), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each rank saved: gradients and drawn orders, by model."""
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.spawn(_rank, args=(str(folder),), nprocs=WORLD_SIZE)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_step_like_one(ranks: list[Any], name: str) -> None:
    """Every gradient to 1e-6, on both ranks, with no unused parameter."""
    model = _build(name)
    images, order = _joined_batch(model)
    model.loss(images, order=order)["loss"].backward()
    for key, expected in _gradients(model).items():
        for gradients, _ in ranks:
            assert relative(gradients[name][key], expected) < 1e-6, key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own-12", "coupled-12"])
def test_ranks_draw_different_orders(ranks: list[Any], name: str) -> None:
    """From one seed, through the rank of the real process group."""
    orders = torch.cat([drawn[name] for _, drawn in ranks])
    assert len(orders.unique(dim=0)) == WORLD_SIZE * PER_RANK


@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_is_unused(name: str) -> None:
    """In one process: every trained parameter gets a gradient that is not zero."""
    model = _build(name)
    images, order = _joined_batch(model)
    model.loss(images, order=order)["loss"].backward()
    for key, gradient in _gradients(model).items():
        assert gradient.count_nonzero() > 0, key
