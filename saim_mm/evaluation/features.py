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
            ``out_type`` and final norm do not matter.
        preprocessor: Data preprocessor that normalises the images.
        pool: ``avg`` (mean of the patches) or ``cls`` (class token).

    Raises:
        ValueError: If the pool is unknown, or the backbone has no class token to use.
    """

    def __init__(
        self, backbone: VisionTransformer, preprocessor: nn.Module, pool: Pool = "avg"
    ) -> None:
        if pool not in POOLS:
            raise ValueError(f"pool={pool!r} is unknown; choose one of {list(POOLS)}.")
        if pool == "cls" and not backbone.with_cls_token:
            raise ValueError(
                "pool='cls' needs a class token and the backbone has "
                "with_cls_token=False; use pool='avg'."
            )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.pool = pool

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
        shield_workers(
            loader
        )  # an evaluation in training must outlast a preempted job's signal
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

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> Features:
        """Features (B, D) of a batch, on the encoder's device."""
        with evaluation_mode(self.backbone):
            images = self.preprocessor(batch, False)["inputs"]
            # As the recipes train: mixed precision where there is a GPU.
            with torch.autocast(images.device.type, enabled=images.is_cuda):
                tokens = self._last_block(images)
        labels = torch.cat([sample.gt_label for sample in batch["data_samples"]])
        return Features(self._pool(tokens).float(), labels.to(tokens.device))

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
            return tokens[:, 0]
        return tokens[:, self.backbone.num_extra_tokens :].float().mean(dim=1)


def _interleave(shard: Tensor, total: int) -> Tensor:
    """Merges the shards of all processes; the sampler's padding is cut off."""
    return torch.stack(all_gather(shard), dim=1).flatten(0, 1)[:total]
