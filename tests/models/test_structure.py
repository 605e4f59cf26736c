"""What the hot path must not do: no N x N tensor, no norm or product too many.

Every operator that runs in forward and backward is recorded, with the shapes of what
it returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import FLASH, tiny_images, tiny_saim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from saim_mm.models import SAIM
from saim_mm.parity.reference import reference_loss

# 35 patches, a number that no other dimension has.
GRID = dict(image_size=(20, 28), patch_size=(4, 4))
NUM_PATCHES = 35
NUM_LAYERS = 4


class Recorder(TorchDispatchMode):
    """Counts operators and keeps the shapes of their outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls[func.overloadpacket.__name__] += 1
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, torch.Tensor):
                self.shapes.add(tuple(leaf.shape))
        return out

    @property
    def square(self) -> set[tuple[int, ...]]:
        """Shapes that end in tokens x tokens."""
        tokens = {NUM_PATCHES, NUM_PATCHES + 1}
        return {s for s in self.shapes if len(s) > 1 and tokens >= set(s[-2:])}


def _record(step: Callable[[], torch.Tensor]) -> tuple[Recorder, Recorder]:
    """Recorders of the forward and of the backward pass."""
    with Recorder() as forward:
        loss = step()
    with Recorder() as backward:
        loss.backward()
    return forward, backward


def _model(options: dict[str, Any]) -> SAIM:
    return tiny_saim(num_layers=NUM_LAYERS, **GRID, **{"depth": NUM_LAYERS, **options})


MODELS: dict[str, dict[str, Any]] = {
    "stochastic": dict(),
    "partial": dict(depth=2),
    "coupled": dict(tied_decoder=True, depth=2),
    "raster": dict(order="raster", projector="linear"),
    "none": dict(order="raster", depth=0),
    "transformer": dict(projector="transformer", depth=1),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_mask_is_built(name: str) -> None:
    """No tensor of N x N, in no pass; one flash attention per layer of a stream."""
    model = _model(MODELS[name])
    images = tiny_images(model, 2)
    forward, backward = _record(lambda: model.loss(images)["loss"])
    assert not forward.square
    assert not backward.square
    layers = NUM_LAYERS + model.neck.depth + len(model.head.projector.layers)
    assert forward.calls[FLASH] == layers
    assert backward.calls[f"{FLASH}_backward"] == layers


def test_recorder_sees_masks() -> None:
    """The proof above can fail: segments and the reference have such tensors."""
    model = _model(dict(order="segments", segment_size=(1, 7)))
    images = tiny_images(model, 2)
    forward, _ = _record(lambda: model.loss(images)["loss"])
    assert forward.square
    step = torch.stack([torch.randperm(NUM_PATCHES) for _ in range(2)])
    forward, backward = _record(lambda: reference_loss(model, images, step))
    assert (2, 2, NUM_PATCHES, NUM_PATCHES + 1) in forward.square & backward.square


@pytest.mark.parametrize("name", MODELS)
def test_norms_and_products_are_counted(name: str) -> None:
    """By the formula, M encoder layers, d decoder layers and t in the head:

    ====================  =====  =======  ====  =====
    per layer             norms  q, k, v  proj  MLP
    ====================  =====  =======  ====  =====
    encoder, head         2      1 (qkv)  1     2
    decoder               3      2 (q kv) 1     2
    ====================  =====  =======  ====  =====

    and the final norm and the products of the head after them.
    """
    model = _model(MODELS[name])
    images = tiny_images(model, 2)
    forward, _ = _record(lambda: model.loss(images)["loss"])
    encoder = NUM_LAYERS + len(model.head.projector.layers)
    decoder = model.neck.depth
    to_pixels = 2 if MODELS[name].get("projector", "mlp") == "mlp" else 1
    assert forward.calls["native_layer_norm"] == 2 * encoder + 3 * decoder + 1
    products = sum(forward.calls[op] for op in ("addmm", "mm", "bmm", "linear"))
    assert products == 4 * encoder + 5 * decoder + to_pixels


def test_sequence_is_not_copied_for_sorting() -> None:
    """Two gathers per step of images: patches with positions, and the target.

    Positions are indexed, and a sort or a mask-building comparison does not occur
    when the order is given. (The check of a given order, on the CPU, sorts it.)
    """
    model = _model({})
    images = tiny_images(model, 2)
    order = model.order_sampler.draw(2, images.device)
    forward, _ = _record(lambda: model.loss(images, order=order)["loss"])
    assert forward.calls["gather"] == 2
    assert forward.calls["index"] == 1
    assert forward.calls["sort"] == 1
    assert not {"ge", "gt", "masked_fill", "where", "triu", "tril"} & set(forward.calls)


@pytest.mark.parametrize("options", [dict(), dict(projector="transformer")])
def test_layers_copy_nothing(options: dict[str, Any]) -> None:
    """Explicit copies do not grow with depth: splitting and joining heads are views."""
    copies = []
    for num_layers in (2, 6):
        model = tiny_saim(num_layers=num_layers, depth=num_layers, **GRID, **options)
        images = tiny_images(model, 2)
        forward, _ = _record(lambda m=model, x=images: m.loss(x)["loss"])
        names = ("clone", "copy_", "_to_copy", "cat", "index", "gather")
        copies.append(sum(forward.calls[name] for name in names))
    assert copies[0] == copies[1]
