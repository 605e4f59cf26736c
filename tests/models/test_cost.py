"""What makes a step fast, asserted without a clock: the operations it consists of.

Every operation of the forward and backward pass is recorded as torch dispatches it.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.runner import turn_on_activation_checkpointing
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from tiny import FLASH, relative, tiny_config, tiny_saim
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from saim_mm.datasets import SampleIndex
from saim_mm.models import SAIM
from saim_mm.models.layers import AttentionBlock
from saim_mm.models.plan import CAUSAL, sort_tokens

#: They move no data.
VIEWS = {
    "detach", "expand", "permute", "select", "slice", "split_with_sizes", "t",
    "transpose", "unbind", "unsqueeze", "view", "_unsafe_view", "lift_fresh",
}  # fmt: skip
#: They make the host wait for the device.
WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select"}
#: Patches and the tokens with cls, unlike any other size of the model.
GRID = (6, 7)
PATCHES = math.prod(GRID)


class Recorder(TorchDispatchMode):
    """Keeps the name, arguments and results of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any, Any]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.name().split("::")[1].split(".")[0]
        self.calls.append((name, args, result))
        return result

    def kernels(self) -> list[str]:
        return [name for name, _, _ in self.calls if name not in VIEWS]


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def model_with(grid: tuple[int, int] = GRID, **options: Any) -> SAIM:
    torch.manual_seed(0)
    image_size = (grid[0] * 4, grid[1] * 4)
    return tiny_saim(image_size=image_size, **options)


def samples(count: int) -> list[DataSample]:
    packed = []
    for index in range(count):
        sample = DataSample()
        sample.set_metainfo(dict(sample_idx=SampleIndex(index, seed=0, epoch=0)))
        packed.append(sample)
    return packed


def step(model: SAIM, batch: int = 2) -> Recorder:
    images = torch.randn(batch, 3, *model.backbone.img_size)
    with Recorder() as recorder:
        model.loss(images, samples(batch))["loss"].backward()
    return recorder


OPTIONS = [
    pytest.param(dict(), id="paper"),
    pytest.param(dict(order="raster"), id="raster"),
    pytest.param(dict(order="raster", depth=0), id="no decoder"),
    pytest.param(dict(tied_decoder=True), id="coupled"),
    pytest.param(dict(depth=1), id="one decoder layer"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_no_tensor_of_tokens_by_tokens(options: dict[str, Any]) -> None:
    lengths = {PATCHES, PATCHES + 1, PATCHES - 1}
    for name, _, result in step(model_with(**options)).calls:
        for tensor in tensors(result):
            square = [size for size in tensor.shape if size in lengths]
            assert len(square) < 2, f"{name} -> {tuple(tensor.shape)}"


def test_the_recorder_sees_a_tensor_of_tokens_by_tokens() -> None:
    """The check above can fail: the reference has such tensors."""
    from saim_mm.parity.reference import reference_loss

    model = model_with()
    images = torch.randn(2, 3, *model.backbone.img_size)
    with Recorder() as recorder:
        reference_loss(model, images, model.order_sampler.draw(2, images.device))
    shapes = [t.shape for _, _, result in recorder.calls for t in tensors(result)]
    assert any(list(shape).count(PATCHES) >= 2 for shape in shapes)


@pytest.mark.parametrize("options", [*OPTIONS, dict(query_share=0.5)])
def test_nothing_in_a_step_makes_the_host_wait(options: dict[str, Any]) -> None:
    names = {name for name, _, _ in step(model_with(**options)).calls}
    assert not names & WAITS


def test_kernels_of_a_layer() -> None:
    """Four matrix products and one attention; a fifth for the memory of a query."""
    model = model_with()
    x = torch.randn(2, PATCHES, model.backbone.embed_dims, requires_grad=True)
    feed_forward = ["native_layer_norm", "addmm", "gelu", "addmm", "add"]
    with Recorder() as content:
        model.backbone.layers[0](x, None, CAUSAL)
    assert content.kernels() == [
        "native_layer_norm", "addmm", FLASH, "addmm", "add", *feed_forward,
    ]  # fmt: skip
    with Recorder() as query:
        model.neck.layers[0](x, x, CAUSAL)
    assert query.kernels() == [
        *["native_layer_norm"] * 2, *["addmm"] * 2, FLASH, "addmm", "add",
        *feed_forward,
    ]  # fmt: skip


def test_a_layer_more_adds_only_its_own_kernels() -> None:
    """Nothing is copied or sorted again between the layers."""

    def forward(num_layers: int) -> list[str]:
        model = model_with(num_layers=num_layers, depth=num_layers)
        images = torch.randn(2, 3, *model.backbone.img_size)
        with Recorder() as recorder:
            model.loss(images, samples(2))
        return recorder.kernels()

    assert len(forward(5)) - len(forward(4)) == 10 + 12


@contextlib.contextmanager
def counted_bytes(model: SAIM) -> Iterator[dict[int, int]]:
    """Bytes that are kept for the backward pass by storage, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def saved_bytes(grid: tuple[int, int]) -> int:
    """Bytes that a forward pass keeps for the backward pass, weights aside."""
    model = model_with(grid)
    images = torch.randn(2, 3, *model.backbone.img_size)
    with counted_bytes(model) as kept:
        loss = model.loss(images, samples(2))["loss"]
    assert loss.requires_grad
    return sum(kept.values())


def test_memory_is_linear_in_the_number_of_patches() -> None:
    sizes = [saved_bytes((4, columns)) for columns in (4, 8, 12, 24)]
    per_patch = (sizes[1] - sizes[0]) / 16
    assert per_patch > 0
    assert sizes[2] - sizes[1] == pytest.approx(16 * per_patch, rel=0.02)
    assert sizes[3] - sizes[2] == pytest.approx(48 * per_patch, rel=0.02)


def test_the_target_is_cut_sorted_and_normalised_in_three_copies() -> None:
    """And only of the patches that are asked for, once they are cut."""
    model = model_with()
    images = torch.randn(2, 3, *model.backbone.img_size)
    order = model.order_sampler.draw(2, images.device)[:, : PATCHES // 3]
    with Recorder() as recorder:
        target = model.head.target(images, order)
    assert torch.equal(target, sort_tokens(model.head.target(images), order))
    values = target.shape[-1]
    made = {
        tensor.untyped_storage().data_ptr(): tuple(tensor.shape[:2])
        for _, _, result in recorder.calls
        for tensor in tensors(result)
        if tensor.is_floating_point() and tensor.shape[2:] == (values,)
    }
    asked = (2, PATCHES // 3)
    assert sorted(made.values()) == [asked, asked, (2, PATCHES)]


@pytest.mark.parametrize("options", [*OPTIONS, dict(query_share=0.5)])
def test_activation_checkpointing_keeps_less_and_changes_nothing(
    options: dict[str, Any],
) -> None:
    """MMEngine's own switch, for the layers of both streams."""
    plain = model_with(**options)
    saving = copy.deepcopy(plain)
    layers = [n for n, m in saving.named_modules() if isinstance(m, AttentionBlock)]
    turn_on_activation_checkpointing(saving, layers)
    images = torch.randn(2, 3, *plain.backbone.img_size)
    kept = []
    for model in (plain, saving):
        torch.manual_seed(0)
        with counted_bytes(model) as bytes_kept:
            loss = model.loss(images)["loss"]
        loss.backward()
        kept.append(sum(bytes_kept.values()))
    assert kept[1] < kept[0] / 2
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        assert a.grad is b.grad is None or relative(b.grad, a.grad) < 1e-5


def test_one_copy_of_the_images_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As bytes; beside it only a number per image, from which its order is drawn.

    torch's meta device stands for a GPU.
    """
    autocast = torch.autocast
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda device, *args, **options: (
            contextlib.nullcontext()
            if device == "meta"
            else autocast(device, *args, **options)
        ),
    )
    config = tiny_config()
    config["data_preprocessor"] = dict(mean=[123.0] * 3, std=[58.0] * 3, to_rgb=True)
    model = MODELS.build(config).to("meta")
    height, width = model.backbone.img_size
    batch = dict(
        inputs=torch.zeros(2, 3, height, width, dtype=torch.uint8),
        data_samples=samples(2),
    )
    with Recorder() as recorder:
        model(**model.data_preprocessor(batch, True), mode="loss")["loss"]
    copied = [
        [(tensor.dtype, tensor.dim()) for tensor in tensors(args)]
        for _, args, result in recorder.calls
        if any(t.device.type == "cpu" for t in tensors(args))
        and any(t.device.type == "meta" for t in tensors(result))
    ]
    assert copied == [[(torch.uint8, 4)], [(torch.int64, 1)]]
