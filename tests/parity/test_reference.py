"""The yardstick is measured too: against loops that have no mask at all.

``saim_mm.parity.reference`` says with dense masks what SAIM is. Here the same is said
without any: for one image, step by step, every token reads the states of those that are
really there. Attention comes from ``torch.nn.functional.multi_head_attention_forward``
and the target from SciPy and NumPy, so no line is shared with what is tested.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from tiny import relative, step_of, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.models import SAIM, SAIMHead
from saim_mm.models.layers import AttentionBlock
from saim_mm.models.saim_head import (
    GaussianBlur,
    patch_statistics,
    patchify,
    unpatchify,
)
from saim_mm.parity.reference import (
    reference_loss,
    reference_predictions,
    reference_target,
)

MODELS = {
    "stochastic": dict(),
    "partial": dict(depth=2),
    "coupled": dict(tied_decoder=True, depth=2),
    "raster": dict(order="raster"),
    "none": dict(order="raster", depth=0),
    "segments": dict(order="segments", segment_size=(1, 3)),
    "segments-coupled": dict(order="segments", segment_size=(2, 1), tied_decoder=True),
    "transformer": dict(projector="transformer"),
    "segments-transformer": dict(
        order="segments", segment_size=(2, 1), projector="transformer"
    ),
}


def _layer(layer: AttentionBlock, x: Tensor, memory: Tensor) -> Tensor:
    """Tokens (L, D) read all of the memory (S, D) in one pre-norm layer."""
    qkv, proj = layer.attn.qkv, layer.attn.proj
    q, kv = layer.ln1(x), layer.ln1(memory)
    read, _ = F.multi_head_attention_forward(
        q,
        kv,
        kv,
        embed_dim_to_check=x.shape[-1],
        num_heads=layer.attn.num_heads,
        in_proj_weight=qkv.weight,
        in_proj_bias=qkv.bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=proj.weight,
        out_proj_bias=proj.bias,
        need_weights=False,
    )
    x = x + read
    (fc1, act, _), fc2 = layer.ffn.layers[0], layer.ffn.layers[1]
    return x + fc2(act(fc1(layer.ln2(x))))


def _step_by_step(model: SAIM, image: Tensor, order: Tensor) -> Tensor:
    """Predicts one image patch group by patch group, as Eq. 4 and 5 read.

    ``seen[m]`` is the memory of layer m: the input states h^(m) of the tokens so far.
    It only grows. At each step the patches of the step are predicted from it, and only
    then shown to the encoder.

    Args:
        model: The model.
        image: (C, H, W).
        order: (N,).

    Returns:
        Predictions (N, p*p*C) in raster order.
    """
    backbone, neck, head = model.backbone, model.neck, model.head
    position = backbone.pos_embed[0, 1:]
    embedded = backbone.patch_embed.projection(image[None])[0].flatten(1).T + position
    stride = len(backbone.layers) // neck.depth if neck.depth else 0
    seen: list[list[Tensor]] = [[] for _ in range(len(backbone.layers) + 1)]
    head_seen: list[list[Tensor]] = [[] for _ in head.projector.layers]

    def show(h: Tensor) -> None:
        for m, layer in enumerate(backbone.layers):
            seen[m].append(h)
            h = _layer(layer, h, torch.cat(seen[m]))
        seen[-1].append(h)

    show(backbone.cls_token[0] + backbone.pos_embed[0, :1])
    predictions: dict[int, Tensor] = {}
    for group in order.split(model.order_sampler.segment_length):
        if neck.depth:
            g = position[group]
            for d in range(neck.depth):
                m = (d + 1) * stride  # the output of encoder layer m, Algorithm 1
                layer = backbone.layers[m - 1] if neck.tied_decoder else neck.layers[d]
                g = _layer(layer, g, torch.cat(seen[m]))
        else:
            g = seen[-1][-1]  # the token before
        g = neck.norm(g)
        for layer, memory in zip(head.projector.layers, head_seen, strict=True):
            memory.append(g)
            g = _layer(layer, g, torch.cat(memory))
        pixels = head.projector.to_pixels(g)
        predictions.update(zip(group.tolist(), pixels, strict=True))
        show(embedded[group])
    return torch.stack([predictions[i] for i in range(len(order))])


@pytest.mark.parametrize("name", MODELS)
def test_masks_mean_what_the_equations_say(name: str) -> None:
    """Dense masks and growing prefixes give the same predictions, to 1e-12."""
    model = tiny_saim(num_layers=4, **{"depth": 4, **MODELS[name]}).double()
    images = tiny_images(model, 3).double()
    order = model.order_sampler.draw(3, images.device)
    with torch.no_grad():
        expected = torch.stack(
            [_step_by_step(model, x, o) for x, o in zip(images, order, strict=True)]
        )
        actual = reference_predictions(model, images, step_of(model, order))
    assert relative(actual, expected) < 1e-12


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_loss_is_the_mean_over_patches_and_pixels(loss: str) -> None:
    """By NumPy, from predictions and target."""
    model = tiny_saim(loss=loss)
    images = tiny_images(model, 3)
    step = step_of(model, model.order_sampler.draw(3, images.device))
    with torch.no_grad():
        error = reference_predictions(model, images, step).numpy()
        error = error - _target_by_scipy(images.numpy(), (4, 4), 4, 1.0)
        expected = np.mean(np.abs(error) if loss == "l1" else error**2)
        actual = reference_loss(model, images, step).item()
    assert actual == pytest.approx(expected, rel=1e-6)


# The target


def _target_by_scipy(
    images: np.ndarray,
    patch_size: tuple[int, int],
    radius: int | None,
    sigma: float,
    norm_pix: bool = True,
) -> np.ndarray:
    """Blurs with SciPy, cuts patches with slices, normalises with NumPy."""
    images = images.astype(np.float64)
    if radius is not None:
        images = gaussian_filter(
            images, sigma=(0, 0, sigma, sigma), mode="constant", radius=radius
        )
    rows, columns = patch_size
    out = []
    for image in images:
        patches = []
        for y in range(0, image.shape[1], rows):
            for x in range(0, image.shape[2], columns):
                patch = image[:, y : y + rows, x : x + columns]
                values = [
                    patch[c, i, j]
                    for i in range(rows)
                    for j in range(columns)
                    for c in range(len(patch))
                ]
                patch = np.array(values)
                if norm_pix:
                    patch = patch - patch.mean()
                    patch /= np.sqrt(np.sum(patch**2) / (len(patch) - 1) + 1e-6)
                patches.append(patch)
        out.append(patches)
    return np.array(out)


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize(
    ("kernel", "sigma"), [(9, 1.0), (3, 0.5), (5, 2.0), (1, 1.0), (None, 1.0)]
)
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("patch_size", [(4, 4), (3, 6)])
def test_target_is_scipys(
    patch_size: tuple[int, int],
    channels: int,
    kernel: int | None,
    sigma: float,
    norm_pix: bool,
) -> None:
    """Target and reference against SciPy's Gaussian and NumPy's statistics, 1e-5."""
    head = SAIMHead(
        embed_dims=8,
        num_heads=2,
        patch_size=patch_size,
        in_channels=channels,
        norm_pix=norm_pix,
        smoothing=kernel and dict(kernel_size=kernel, sigma=sigma),
    )
    images = torch.randn(2, channels, 3 * patch_size[0], 4 * patch_size[1])
    radius = kernel // 2 if kernel else None
    expected = _target_by_scipy(images.numpy(), patch_size, radius, sigma, norm_pix)
    np.testing.assert_allclose(head.target(images), expected, rtol=1e-5, atol=1e-5)
    reference = reference_target(head, images)
    np.testing.assert_allclose(reference, expected, rtol=1e-5, atol=1e-5)


def test_paper_kernel_is_scipys_with_its_default_radius() -> None:
    """Kernel 9 is what SciPy takes for sigma 1 by default: four deviations."""
    impulse = np.zeros((17, 17))
    impulse[8, 8] = 1.0
    expected = gaussian_filter(impulse, sigma=1.0, mode="constant", truncate=4.0)
    blurred = GaussianBlur(9, 1.0)(torch.from_numpy(impulse).float()[None, None])
    np.testing.assert_allclose(blurred[0, 0], expected, rtol=1e-6, atol=0)
    assert np.count_nonzero(expected) == 81


@pytest.mark.parametrize(("size", "sigma"), [(9, 1.0), (3, 0.5), (5, 2.0), (7, 0.8)])
def test_kernel_is_a_normalised_gaussian(size: int, sigma: float) -> None:
    taps = GaussianBlur(size, sigma).taps.double().numpy()
    distance = np.arange(size) - (size - 1) / 2
    density = np.exp(-(distance**2) / (2 * sigma**2))
    np.testing.assert_allclose(taps, density / density.sum(), rtol=1e-6)
    assert taps.sum() == pytest.approx(1, abs=1e-7)


def test_flat_patch_has_a_finite_target() -> None:
    """A patch without contrast is all zeros, not a division by zero."""
    head = SAIMHead(embed_dims=8, num_heads=2, patch_size=(4, 4), smoothing=None)
    assert torch.equal(head.target(torch.ones(1, 3, 8, 8)), torch.zeros(1, 4, 48))


def test_statistics_are_numpys() -> None:
    patches = 3 * torch.randn(2, 5, 48) + 2
    mean, std = patch_statistics(patches)
    np.testing.assert_allclose(mean[..., 0], patches.numpy().mean(-1), rtol=1e-5)
    expected = np.sqrt(patches.numpy().var(-1, ddof=1) + 1e-6)
    np.testing.assert_allclose(std[..., 0], expected, rtol=1e-5)


@pytest.mark.parametrize("patch_size", [(4, 4), (2, 6)])
def test_unpatchify_is_the_inverse(patch_size: tuple[int, int]) -> None:
    images = torch.randn(2, 5, 8, 12)
    grid = (8 // patch_size[0], 12 // patch_size[1])
    patches = patchify(images, patch_size)
    assert torch.equal(unpatchify(patches, patch_size, grid), images)
