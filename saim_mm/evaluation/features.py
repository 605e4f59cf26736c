"""What a frozen encoder says about images, in the order of the data set.

Symbols: B images of a batch, N images in all, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.dist import all_gather
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..utils.model_state import evaluation_mode
from ..utils.worker_signals import shield_workers

#: ``avg``: mean of the patches; ``cls``: class token.
Pool = Literal["avg", "cls"]
POOLS: tuple[Pool, ...] = get_args(Pool)


@dataclass(frozen=True)
class Features:
    """Features and labels.

    Attributes:
        vectors: (N, D) float32.
        labels: (N,) int64.
    """

    vectors: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Features:
        """The same on another device."""
        return Features(self.vectors.to(device), self.labels.to(device))


class FeatureExtractor:
    """Takes features from a block of a ViT, the last one and before any final norm.

    SAIM's encoder has no final norm in pretraining, and the decoder's was trained on
    another stream; so neither has a part in the features.

    Args:
        backbone: A ``VisionTransformer`` of mmpretrain, such as :class:`SAIMViT`. Its
            ``out_type`` does not matter, nor does its final norm unless it is wanted.
        preprocessor: Data preprocessor that normalises the images.
        pool: ``avg`` (mean of the patches) or ``cls`` (class token).
        final_norm: Take features after the backbone's final norm, for encoders that
            were pretrained with one. It follows the last block, and no other.
        mixed_precision: Run under autocast where there is a GPU, as the recipes train.
        layer: Index of the block whose output is pooled; negative from the end.

    Raises:
        ValueError: If the pool is unknown, the layer out of range, or the backbone has
            no class token or no final norm to use.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        preprocessor: nn.Module,
        pool: Pool = "avg",
        final_norm: bool = False,
        mixed_precision: bool = True,
        layer: int = -1,
    ) -> None:
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r} is unknown; choose one of {list(POOLS)}.")
        if pool == "cls" and not backbone.with_cls_token:
            raise ValueError(
                "pool='cls' needs a class token and the backbone has "
                "with_cls_token=False; use pool='avg'."
            )
        causal = getattr(backbone, "visible", "all") == "causal"
        if pool == "cls" and causal and not _cls_is_last(backbone):
            raise ValueError(
                "pool='cls' with visible='causal': a class token in front of all "
                "patches sees none of them, so all images would be alike; use "
                "pool='avg'."
            )
        if final_norm and not backbone.final_norm:
            raise ValueError(
                "final_norm=True needs a final norm and the backbone has "
                "final_norm=False; leave it out."
            )
        depth = len(backbone.layers)
        if not -depth <= layer < depth:
            raise ValueError(
                f"layer={layer} is out of range: the encoder has {depth} layers, 0 to "
                f"{depth - 1}, or -{depth} to -1 from the end."
            )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.pool = pool
        self.final_norm = final_norm and layer % depth == depth - 1
        self.mixed_precision = mixed_precision
        self.layer = layer

    def extract(
        self,
        dataset: Dataset,
        batch_size: int = 128,
        num_workers: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Features:
        """Features of a whole data set; see :meth:`extract_loader`.

        Args:
            dataset: Gives items as ``PackInputs`` does, with ``gt_label``.
            batch_size: Images per forward and process.
            num_workers: Processes that load images, for each process.
            progress: Called after each batch with its number of images.
        """
        loader = DataLoader(
            dataset,
            batch_size=batch_size,
            # Without a seed the sampler would draw one.
            sampler=DefaultSampler(dataset, shuffle=False, seed=0),
            num_workers=num_workers,
            collate_fn=default_collate,
            generator=torch.Generator(),
        )
        # An evaluation in training must outlast a preempted job's signal.
        shield_workers(loader)
        return self.extract_loader(loader, progress)

    def extract_loader(
        self, loader: DataLoader, progress: Callable[[int], None] | None = None
    ) -> Features:
        """Features of what a loader gives, on the CPU.

        Args:
            loader: With a ``DefaultSampler(shuffle=False)``: of W processes, process r
                loads the images r, r + W, ...
            progress: As for :meth:`extract`.

        Returns:
            The N features in the order of the data set, the same in every process.
        """
        batches = []
        for batch in loader:
            batches.append(self(batch))
            if progress is not None:
                progress(len(batches[-1]))
        vectors = torch.cat([batch.vectors.cpu() for batch in batches])
        labels = torch.cat([batch.labels.cpu() for batch in batches])
        total = len(loader.dataset)  # type: ignore[arg-type]
        return Features(_interleave(vectors, total), _interleave(labels, total))

    def extract_tensors(
        self, images: Tensor, labels: Tensor, batch_size: int = 1000
    ) -> Features:
        """Features of images that are in memory, on the encoder's device.

        Args:
            images: (N, C, H, W), of any type, before normalisation.
            labels: (N,).
            batch_size: Images per forward.
        """
        chunks = [self.vectors_of(dict(inputs=c)) for c in images.split(batch_size)]
        vectors = torch.cat(chunks)
        return Features(vectors, labels.to(vectors.device))

    def __call__(self, batch: dict[str, Any]) -> Features:
        """Features (B, D) of a batch, on the encoder's device."""
        vectors = self.vectors_of(batch)
        labels = torch.cat([sample.gt_label for sample in batch["data_samples"]])
        return Features(vectors, labels.to(vectors.device))

    def vectors_of(self, batch: dict[str, Any]) -> Tensor:
        """Features (B, D), float32, of ``inputs`` that are not yet normalised."""
        batch = dict(inputs=batch["inputs"], data_samples=batch.get("data_samples"))
        return self.vectors(self.preprocessor(batch, False)["inputs"])

    def vectors(self, images: Tensor) -> Tensor:
        """Features (B, D), float32, of normalised images (B, C, H, W)."""
        return self._pool(self.tokens(images)).float()

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """What is pooled: all tokens (B, E + N, D) of normalised images."""
        mixed = self.mixed_precision and images.is_cuda
        with (
            evaluation_mode(self.backbone),
            torch.autocast(images.device.type, enabled=mixed),
        ):
            tokens = self._block_output(images)
            return self.backbone.ln1(tokens) if self.final_norm else tokens

    def _block_output(self, images: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        handle = self.backbone.layers[self.layer].register_forward_hook(
            lambda _module, _inputs, output: outputs.append(output)
        )
        try:
            self.backbone(images)
        finally:
            handle.remove()
        return outputs[0]

    def _pool(self, tokens: Tensor) -> Tensor:
        if self.pool == "cls":
            return tokens[:, -1 if _cls_is_last(self.backbone) else 0]
        return patches_of(tokens, self.backbone).float().mean(dim=1)


def patches_of(tokens: Tensor, backbone: VisionTransformer) -> Tensor:
    """The patches (B, N, D) among a layer's outputs (B, tokens, D)."""
    end = tokens.shape[1] - _cls_is_last(backbone)
    return tokens[:, backbone.num_extra_tokens : end]


def _cls_is_last(backbone: VisionTransformer) -> bool:
    """Whether the class token stands behind all patches, as it may in a RegisterViT."""
    return getattr(backbone, "cls_place", "prefix") == "suffix"


def _interleave(shard: Tensor, total: int) -> Tensor:
    """Merges the shards of all processes; the sampler's padding is cut off."""
    return torch.stack(all_gather(shard), dim=1).flatten(0, 1)[:total]
