"""An encoder to use: from images to features, without a config."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..datasets.channel_preprocessor import channels_of
from .encoders import build_encoder
from .features import FeatureExtractor, Pool, patches_of
from .image_transform import ImageTransform


class FrozenEncoder(nn.Module):
    """A ViT in evaluation mode, with what it needs to look at images.

    Args:
        checkpoint: As for :func:`build_encoder`, like ``config`` and ``num_heads``.
        config: The config that it was trained with.
        num_heads: Number of heads, where nothing else tells it.

    Attributes:
        source: The file.
        backbone: A :class:`SAIMViT`; with a final norm if the file has one.
        preprocessor: Normalises images (BGR, 0 to 255, or given channels).
        transform: Makes a batch of files, Pillow's images, arrays or tensors; see
            :class:`ImageTransform`.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it holds no encoder, or only in part; a ``ValueError``.
        ValueError: If the config has no ``SAIMViT``.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        config: str | Path | None = None,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.source = str(checkpoint)
        self.backbone, self.preprocessor = build_encoder(checkpoint, config, num_heads)
        self.transform = ImageTransform(self.image_size, self.preprocessor)
        self.eval()

    def _apply(self, *args: Any, **kwargs: Any) -> FrozenEncoder:
        """What ``to``, ``cuda`` and ``cpu`` do; the preprocessor has to be told."""
        super()._apply(*args, **kwargs)
        self.preprocessor.to(self.device)
        return self

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.backbone.parameters()).device

    @property
    def embed_dims(self) -> int:
        """Number of channels D of the features."""
        return self.backbone.embed_dims

    @property
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of a patch, in pixels."""
        return self.backbone.patch_embed.projection.kernel_size

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the images that ``transform`` makes, in pixels."""
        rows, columns = self.backbone.img_size
        return rows, columns

    @property
    def loaded_channels(self) -> int | None:
        """``channels`` of the transform that loads images; ``None`` for photographs.

        Raises:
            ValueError: If nothing says how images of its channels are read.
        """
        needed = self.backbone.patch_embed.projection.in_channels
        known = channels_of(self.preprocessor)
        if known is None and needed != 3:
            raise ValueError(
                f"{self.source}: an encoder of {needed} channels, and its config does "
                "not say how such images are read; give a config whose "
                "data_preprocessor is a ChannelDataPreprocessor."
            )
        return known

    def extractor(self, pool: Pool = "avg", layer: int = -1) -> FeatureExtractor:
        """What reads whole data sets; after the final norm, if there is one.

        Raises:
            ValueError: As for :class:`FeatureExtractor`.
        """
        return FeatureExtractor(
            self.backbone,
            self.preprocessor,
            pool,
            self.backbone.final_norm,
            mixed_precision=False,
            layer=layer,
        )

    def features(
        self,
        images: Tensor,
        pool: Literal["avg", "cls", "map"] = "avg",
        layer: int = -1,
    ) -> Tensor:
        """What the encoder says of images, without gradient.

        Args:
            images: (B, C, H, W), from :attr:`transform`, on any device.
            pool: ``avg``, the mean of the patches; ``cls``, the class token; or
                ``map``, all patches where they lie.
            layer: Index of the block whose output is taken; negative from the end.

        Returns:
            (B, D); of ``map`` (B, D, rows, columns), in patches.

        Raises:
            ValueError: If the images are no such tensor, the pool is unknown, the layer
                out of range, or there is no class token to take.
        """
        channels = self.backbone.patch_embed.projection.in_channels
        is_batch = isinstance(images, Tensor) and images.is_floating_point()
        if not is_batch or images.ndim != 4 or images.shape[1] != channels:
            said = getattr(images, "shape", type(images).__name__)
            raise ValueError(
                f"features wants float images (B, {channels}, H, W) and got {said}; "
                "give what transform makes of images."
            )
        images = images.to(next(self.backbone.parameters()))
        if pool != "map":
            return self.extractor(pool, layer).vectors(images)
        tokens = self.extractor("avg", layer).tokens(images).float()
        patches = patches_of(tokens, self.backbone).transpose(1, 2)
        sides = zip(images.shape[2:], self.patch_size, strict=True)
        return patches.unflatten(2, [pixels // patch for pixels, patch in sides])

    def forward(self, images: Tensor) -> Tensor:
        """The mean of the patches (B, D) of the last block."""
        return self.features(images)

    def identity(self) -> dict[str, Any]:
        """What makes its features what they are, as JSON can hold it.

        Besides the SHA-256 of the weights (names, types, shapes and values) it has what
        no weight tells.
        """
        mean, std = self.preprocessor.mean, self.preprocessor.std
        return dict(
            encoder_sha256=_sha256(self.backbone),
            num_heads=self.backbone.arch_settings["num_heads"],
            norm_eps=self.backbone.layers[0].ln1.eps,
            visible=self.backbone.visible,
            image_size=list(self.image_size),
            mean=mean.flatten().tolist(),
            std=std.flatten().tolist(),
            to_rgb=self.preprocessor._channel_conversion,
        )


def _sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        )
    return digest.hexdigest()
