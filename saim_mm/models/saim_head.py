"""The smoothed pixel head: from queries to pixels, and the loss."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn

from ..registry import register
from ..utils.check_choice import check_choice
from ..utils.gaussian import gaussian_taps
from .layers import AttentionBlock, init_like_official
from .plan import CAUSAL, Mask, Plan, sort_tokens

ProjectorKind = Literal["linear", "mlp", "transformer"]
LossKind = Literal["l1", "l2"]


@register("model")
class SAIMHead(BaseModule):
    """Projects queries to patches and compares them with the smoothed image (Eq. 7).

    Inside :class:`~saim_mm.models.SAIM` the sizes follow from the backbone and need not
    be given.

    Args:
        embed_dims: Number of channels D of the queries.
        patch_size: Rows and columns of a patch, in pixels.
        in_channels: Number of image channels C.
        num_heads: Attention heads of the transformer projector.
        projector: ``mlp`` (the paper: D, 4D, GELU, patch), ``linear``, or
            ``transformer``, two layers over the queries and a linear one (Table 4).
            In the transformer a query attends to earlier queries only: what a later
            query knows would give away the patch.
        loss: ``l2`` (the paper) or ``l1``, the mean over all patches and pixels.
        norm_pix: Whether each target patch is normalised by its own mean and standard
            deviation (the paper). Without, the target is the smoothed image itself.
        smoothing: ``kernel_size`` and ``sigma`` of the Gaussian, in pixels, or ``None``
            for no smoothing. The paper's best is 9 and 1 (Table 3), the default.
        init_cfg: Initialisation config; by default as in the release.

    Raises:
        ValueError: If an option is unknown or a patch has a single value to normalise.
    """

    def __init__(
        self,
        embed_dims: int = 768,
        patch_size: tuple[int, int] = (16, 16),
        in_channels: int = 3,
        num_heads: int = 12,
        projector: ProjectorKind = "mlp",
        loss: LossKind = "l2",
        norm_pix: bool = True,
        smoothing: dict[str, Any] | None = dict(kernel_size=9, sigma=1.0),  # noqa: B006
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_choice("SAIMHead loss", loss, get_args(LossKind))
        patch_dims = patch_size[0] * patch_size[1] * in_channels
        if norm_pix and patch_dims < 2:
            raise ValueError(
                f"norm_pix=True with patch_size={tuple(patch_size)} and "
                f"in_channels={in_channels}: one value has no deviation to normalise "
                "by; set norm_pix=False or use a larger patch."
            )
        self.patch_size = (patch_size[0], patch_size[1])
        self.loss_kind = loss
        self.norm_pix = norm_pix
        self.projector = Projector(projector, embed_dims, patch_dims, num_heads)
        self.blur: nn.Module = nn.Identity()
        if smoothing is not None:
            self.blur = GaussianBlur(**smoothing)

    def init_weights(self) -> None:
        """Initialises from ``init_cfg`` if there is one, else as the release does."""
        super().init_weights()
        if not self.init_cfg:
            init_like_official(self)

    def forward(self, queries: Tensor, query_mask: Mask = CAUSAL) -> Tensor:
        """Predicts patches: sorted queries (B, K, D) -> (B, K, p*p*C), sorted.

        Args:
            queries: Normed queries (B, K, D).
            query_mask: What they see of each other in a transformer projector.

        Returns:
            Predictions in the units of :meth:`target`.
        """
        return self.projector(queries, query_mask)

    @torch.no_grad()
    def target(self, images: Tensor, asked: Tensor | None = None) -> Tensor:
        """What is to be predicted.

        Args:
            images: Images as the model reads them, that is after the data
                preprocessor's mean and std (B, C, H, W).
            asked: Raster indices of the patches that are asked for (B, K); by default
                all of them, in raster order.

        Returns:
            Patches (B, K or N, p*p*C), float32; each patch is laid out as (row, column,
            channel).
        """
        # In half precision the blur would lose what norm_pix magnifies.
        with torch.autocast(images.device.type, enabled=False):
            patches = patchify(self.blur(images.float()), self.patch_size)
            if asked is not None:
                patches = sort_tokens(patches, asked)
            if self.norm_pix:
                mean, std = patch_statistics(patches)
                # Not all in place: patches may still be the images themselves.
                patches = (patches - mean).div_(std)
            return patches

    def loss(self, queries: Tensor, images: Tensor, plan: Plan) -> Tensor:
        """Mean error over the patches that are asked for, and their pixels (Eq. 7).

        Args:
            queries: Sorted queries (B, K, D).
            images: Images (B, C, H, W).
            plan: Which patches they ask for.

        Returns:
            Scalar, float32.
        """
        prediction = self(queries, plan.query_mask)
        target = self.target(images, plan.asked)
        compare = F.l1_loss if self.loss_kind == "l1" else F.mse_loss
        return compare(prediction.float(), target)


class Projector(nn.Module):
    """The last step from a query to the values of its patch (Table 4).

    Args:
        kind: ``linear``, ``mlp`` or ``transformer``.
        embed_dims: Number of channels D of a query.
        patch_dims: Number of values of a patch, p*p*C.
        num_heads: Attention heads of the transformer.

    Raises:
        ValueError: If the kind is unknown.
    """

    def __init__(
        self, kind: ProjectorKind, embed_dims: int, patch_dims: int, num_heads: int
    ) -> None:
        super().__init__()
        check_choice("SAIMHead projector", kind, get_args(ProjectorKind))
        hidden = 4 * embed_dims
        num_layers = 2 if kind == "transformer" else 0
        self.layers = ModuleList(
            AttentionBlock(
                TransformerEncoderLayer(
                    embed_dims, num_heads, hidden, norm_cfg=dict(type="LN", eps=1e-6)
                )
            )
            for _ in range(num_layers)
        )
        self.joint = num_layers > 0  # whether queries see each other
        self.to_pixels: nn.Module = nn.Linear(embed_dims, patch_dims)
        if kind == "mlp":
            self.to_pixels = nn.Sequential(
                nn.Linear(embed_dims, hidden), nn.GELU(), nn.Linear(hidden, patch_dims)
            )

    def forward(self, queries: Tensor, query_mask: Mask) -> Tensor:
        """Sorted queries (B, K, D) -> (B, K, p*p*C)."""
        for layer in self.layers:
            queries = layer(queries, None, query_mask)
        return self.to_pixels(queries)


class GaussianBlur(nn.Module):
    """Depthwise Gaussian filter g_xi of Eq. 7, zero-padded to keep the size.

    The kernel is normalised; being separable, it runs as a column and a row.

    Args:
        kernel_size: Taps per side, odd.
        sigma: Standard deviation in pixels.

    Raises:
        ValueError: If the kernel is even or the deviation is not positive.
    """

    taps: Tensor  # (kernel_size,): one axis of the kernel

    def __init__(self, kernel_size: int, sigma: float) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 != 1 or not sigma > 0:
            raise ValueError(
                f"smoothing kernel_size={kernel_size}, sigma={sigma}: the kernel must "
                "be odd and positive and sigma greater than 0, as 9 and 1.0; "
                "smoothing=None switches it off."
            )
        taps = gaussian_taps(kernel_size, sigma).float()
        # Not persistent: it follows from the config and is no weight.
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        size = len(self.taps)
        # Each channel of each image is filtered by itself. As the groups of one image
        # they take the depthwise kernels, which on a CPU are several times as fast and
        # on a GPU never round to TensorFloat-32.
        planes = images.flatten(0, 1).unsqueeze(0)
        groups = planes.shape[1]
        taps = self.taps.to(images.dtype)  # a model of another type has cast them
        column = taps.view(1, 1, size, 1).expand(groups, -1, -1, -1)
        row = column.transpose(2, 3)
        pad = size // 2
        planes = F.conv2d(planes, column, padding=(pad, 0), groups=groups)
        planes = F.conv2d(planes, row, padding=(0, pad), groups=groups)
        return planes.view_as(images)


def patchify(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, N, p*p*C); a patch is laid out as (row, column, channel)."""
    rows, columns = patch_size
    tiles = images.unflatten(2, (-1, rows)).unflatten(4, (-1, columns))
    # (B, C, grid rows, rows, grid columns, columns)
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(
    patches: Tensor, patch_size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """(B, N, p*p*C) -> (B, C, H, W); the inverse of :func:`patchify`."""
    rows, columns = patch_size
    tiles = patches.unflatten(1, grid).unflatten(3, (rows, columns, -1))
    return tiles.permute(0, 5, 1, 3, 2, 4).flatten(2, 3).flatten(3, 4)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch, as the target uses them.

    Args:
        patches: (B, N, p*p*C).

    Returns:
        Mean and deviation, (B, N, 1) each. The variance is unbiased and 1e-6 is added
        to it, as in the release.
    """
    var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (var + 1e-6).sqrt()
