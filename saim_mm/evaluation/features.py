"""What a frozen encoder says about images, in the order of the data set.

Symbols: B images of a batch, N images in all, D channels.
"""

from __future__ import annotations

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
    """Takes features from the last block of a ViT, before any final norm.

    SAIM's encoder has no final norm in pretraining, and the decoder's was trained on
    another stream; so neither has a part in the features.

    Args:
        backbone: A ``VisionTransformer`` of mmpretrain, such as :class:`SAIMViT`. Its
            ``out_type`` does not matter, nor does its final norm unless it is wanted.
        preprocessor: Data preprocessor that normalises the images.
        pool: ``avg`` (mean of the patches) or ``cls`` (class token).
        final_norm: Take features after the backbone's final norm, for encoders that
            were pretrained with one.
        mixed_precision: Run under autocast where there is a GPU, as the recipes train.

    Raises:
        ValueError: If the pool is unknown, or the backbone has no class token or no
            final norm to use.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        preprocessor: nn.Module,
        pool: Pool = "avg",
        final_norm: bool = False,
        mixed_precision: bool = True,
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
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.pool = pool
        self.final_norm = final_norm
        self.mixed_precision = mixed_precision

    def extract(
        self, dataset: Dataset, batch_size: int = 128, num_workers: int = 0
    ) -> Features:
        """Features of a whole data set; see :meth:`extract_loader`.

        Args:
            dataset: Gives items as ``PackInputs`` does, with ``gt_label``.
            batch_size: Images per forward and process.
            num_workers: Processes that load images, for each process.
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
        return self.extract_loader(loader)

    def extract_loader(self, loader: DataLoader) -> Features:
        """Features of what a loader gives, on the CPU.

        Args:
            loader: With a ``DefaultSampler(shuffle=False)``: of W processes, process r
                loads the images r, r + W, ...

        Returns:
            The N features in the order of the data set, the same in every process.
        """
        batches = [self(batch) for batch in loader]
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
        chunks = [self._vectors(dict(inputs=c)) for c in images.split(batch_size)]
        vectors = torch.cat(chunks)
        return Features(vectors, labels.to(vectors.device))

    def __call__(self, batch: dict[str, Any]) -> Features:
        """Features (B, D) of a batch, on the encoder's device."""
        vectors = self._vectors(batch)
        labels = torch.cat([sample.gt_label for sample in batch["data_samples"]])
        return Features(vectors, labels.to(vectors.device))

    @torch.no_grad()
    def _vectors(self, batch: dict[str, Any]) -> Tensor:
        batch = dict(inputs=batch["inputs"], data_samples=batch.get("data_samples"))
        with evaluation_mode(self.backbone):
            images = self.preprocessor(batch, False)["inputs"]
            mixed = self.mixed_precision and images.is_cuda
            with torch.autocast(images.device.type, enabled=mixed):
                tokens = self._last_block(images)
                if self.final_norm:
                    tokens = self.backbone.ln1(tokens)
        return self._pool(tokens).float()

    def _last_block(self, images: Tensor) -> Tensor:
        """Output of the last block, (B, tokens, D)."""
        outputs: list[Tensor] = []
        handle = self.backbone.layers[-1].register_forward_hook(
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
