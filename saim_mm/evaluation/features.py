"""What a frozen encoder says about images, in the order of the data set.

Symbols: B images of a batch, N images in all, L layers, T patches, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from mmengine.dataset import DefaultSampler, default_collate
from mmengine.dist import all_gather
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..utils.check_choice import check_choice
from ..utils.model_state import evaluation_mode
from ..utils.worker_signals import shield_workers

#: ``avg``: mean of the patches; ``cls``: class token.
Pool = Literal["avg", "cls"]
POOLS: tuple[Pool, ...] = get_args(Pool)
#: Is told of so many images more.
Progress: TypeAlias = Callable[[int], None]
#: Features of patches that are held at a time, in bytes.
_MOST_BYTES = 8 * 2**30


class View(NamedTuple):
    """Where features are taken from.

    Attributes:
        layers: The layers of which the mean is taken, from 0 to L - 1; of several,
            without any final norm.
        pool: One vector per image, or ``patches``: all of them, without extra tokens.
    """

    layers: tuple[int, ...]
    pool: Pool | Literal["patches"] = "avg"


@dataclass(frozen=True)
class Features:
    """Features and labels.

    Attributes:
        vectors: (N, D) float32, or (N, T, D) of patches.
        labels: (N,) int64.
    """

    vectors: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, images: Tensor | slice) -> Features:
        return Features(self.vectors[images], self.labels[images])

    def to(self, device: torch.device | str) -> Features:
        """The same on another device."""
        return Features(self.vectors.to(device), self.labels.to(device))


#: What an encoder says of the same images, by view.
Views: TypeAlias = "dict[View, Features]"


class FeatureExtractor:
    """Takes features from a block of a ViT, before any final norm.

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
        model: The model that the backbone is a part of, while it is pretrained: it is
            what is run. MAE's backbone by itself would mask, and that of a sharded
            model lacks weights.

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
        model: nn.Module | None = None,
    ) -> None:
        check_choice("pool", pool, list(POOLS))
        if final_norm and not backbone.final_norm:
            raise ValueError(
                "final_norm=True needs a final norm and the backbone has "
                "final_norm=False; leave it out."
            )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.final_norm = final_norm
        self.mixed_precision = mixed_precision
        self.model = model
        self.view = View((layer_index(layer, self.num_layers),), pool)
        self.check_views([self.view])

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.backbone.layers)

    def check_views(self, views: Collection[View], images: int = 1) -> None:
        """Refuses to look where there is nothing to be seen, or too much to be kept.

        Raises:
            ValueError: If the backbone has no class token, or none that sees patches,
                or all patches of so many images would take too much memory.
        """
        reads_cls = any(view.pool == "cls" for view in views)
        if reads_cls and not self.backbone.with_cls_token:
            raise ValueError(
                "pool='cls' needs a class token and the backbone has "
                "with_cls_token=False; use pool='avg'."
            )
        causal = getattr(self.backbone, "visible", "all") == "causal"
        if reads_cls and causal and not _cls_is_last(self.backbone):
            raise ValueError(
                "pool='cls' with visible='causal': a class token in front of all "
                "patches sees none of them, so all images would be alike; use "
                "pool='avg'."
            )
        rows, columns = self.backbone.patch_resolution
        number = sum(view.pool == "patches" for view in views)
        size = 4 * number * images * rows * columns * self.backbone.embed_dims
        if size > _MOST_BYTES:
            raise ValueError(
                f"The patches of {images} images would take {size / 2**30:.0f} GiB; "
                "give fewer (images_per_class), or train on images, not on features: "
                "configs/saim/benchmarks/vit-b_attentive_in1k.py."
            )

    def extract(
        self,
        dataset: Dataset,
        batch_size: int = 128,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> Features:
        """Features of a whole data set; see :meth:`extract_loader`.

        Args:
            dataset: Gives items as ``PackInputs`` does, with ``gt_label``.
            batch_size: Images per forward and process.
            num_workers: Processes that load images, for each process.
            progress: Called after each batch with its number of images.
        """
        options = (batch_size, num_workers, progress)
        return self.extract_views(dataset, [self.view], *options)[self.view]

    def extract_views(
        self,
        dataset: Dataset,
        views: Collection[View],
        batch_size: int = 128,
        num_workers: int = 0,
        progress: Progress | None = None,
    ) -> Views:
        """Features of a whole data set, in one pass over the images.

        Args:
            dataset: Gives items as ``PackInputs`` does, with ``gt_label``.
            views: What is looked at.
            batch_size: Images per forward and process.
            num_workers: Processes that load images, for each process.
            progress: Called after each batch with its number of images.

        Returns:
            As :meth:`extract_loader`.

        Raises:
            ValueError: As for :meth:`check_views`.
        """
        self.check_views(views, len(dataset))  # type: ignore[arg-type]
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
        return self._views_of_loader(loader, views, progress)

    def extract_loader(
        self, loader: DataLoader, progress: Progress | None = None
    ) -> Features:
        """Features of what a loader gives, on the CPU.

        Args:
            loader: With a ``DefaultSampler(shuffle=False)``: of W processes, process r
                loads the images r, r + W, ...
            progress: As for :meth:`extract`.

        Returns:
            The N features in the order of the data set, the same in every process.
        """
        return self._views_of_loader(loader, [self.view], progress)[self.view]

    def _views_of_loader(
        self, loader: DataLoader, views: Collection[View], progress: Progress | None
    ) -> Views:
        parts: dict[View, list[Tensor]] = {view: [] for view in views}
        labels = []
        for batch in loader:
            for view, vectors in self._vectors(batch, views).items():
                parts[view].append(vectors.cpu())
            labels.append(_labels(batch).cpu())
            if progress is not None:
                progress(len(labels[-1]))
        total = len(loader.dataset)  # type: ignore[arg-type]
        label = _interleave(torch.cat(labels), total)
        return {
            view: Features(_interleave(torch.cat(parts.pop(view)), total), label)
            for view in views
        }

    def extract_tensors(
        self, images: Tensor, labels: Tensor, batch_size: int = 1000
    ) -> Features:
        """Features of images that are in memory, on the encoder's device.

        Args:
            images: (N, C, H, W), of any type, before normalisation.
            labels: (N,).
            batch_size: Images per forward.
        """
        return self.view_tensors(images, labels, [self.view], batch_size)[self.view]

    def view_tensors(
        self,
        images: Tensor,
        labels: Tensor,
        views: Collection[View],
        batch_size: int = 1000,
    ) -> Views:
        """Features of images that are in memory, on the encoder's device.

        Args:
            images: (N, C, H, W), of any type, before normalisation.
            labels: (N,).
            views: What is looked at.
            batch_size: Images per forward.
        """
        chunks = [
            self._vectors(dict(inputs=c), views) for c in images.split(batch_size)
        ]
        found = {view: torch.cat([chunk[view] for chunk in chunks]) for view in views}
        return {view: Features(x, labels.to(x.device)) for view, x in found.items()}

    def __call__(self, batch: Mapping[str, Any]) -> Features:
        """Features (B, D) of a batch, on the encoder's device."""
        vectors = self.vectors_of(batch)
        return Features(vectors, _labels(batch).to(vectors.device))

    def vectors_of(self, batch: Mapping[str, Any]) -> Tensor:
        """Features (B, D), float32, of ``inputs`` that are not yet normalised."""
        return self._vectors(batch, [self.view])[self.view]

    def vectors(self, images: Tensor) -> Tensor:
        """Features (B, D), float32, of normalised images (B, C, H, W)."""
        return self._look_at(images, [self.view])[self.view]

    def tokens(self, images: Tensor) -> Tensor:
        """What is pooled: all tokens (B, E + T, D) of normalised images."""
        (source,) = self._source(self.view)
        return self._run(images, [source])[source]

    def _vectors(
        self, batch: Mapping[str, Any], views: Collection[View]
    ) -> dict[View, Tensor]:
        batch = dict(inputs=batch["inputs"], data_samples=batch.get("data_samples"))
        images = self.preprocessor(batch, False)["inputs"]
        if isinstance(images, (list, tuple)):
            images = images[0]  # of several views of an image
        return self._look_at(images, views)

    def _look_at(self, images: Tensor, views: Collection[View]) -> dict[View, Tensor]:
        outputs = self._run(images, {i for view in views for i in self._source(view)})
        return {view: self._pool(outputs, view).float() for view in views}

    def _source(self, view: View) -> tuple[int, ...]:
        """Indices of the outputs that a view is the mean of; L is the final norm's."""
        if self.final_norm and view.layers == (self.num_layers - 1,):
            return (self.num_layers,)
        return view.layers

    @torch.no_grad()
    def _run(self, images: Tensor, outputs: Collection[int]) -> dict[int, Tensor]:
        """Outputs (B, E + T, D) of layers and of the final norm, by index."""
        found: dict[int, Tensor] = {}

        def keep(index: int) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda _module, _inputs, output: found.update({index: output})

        mixed = self.mixed_precision and images.is_cuda
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.model or self.backbone))
            stack.enter_context(torch.autocast(images.device.type, enabled=mixed))
            for i in outputs:
                last = i == self.num_layers
                module = self.backbone.ln1 if last else self.backbone.layers[i]
                stack.enter_context(module.register_forward_hook(keep(i)))
            if self.model is not None:
                self.model(images, mode="tensor")
            else:
                self.backbone(images)
        return found

    def _pool(self, outputs: Mapping[int, Tensor], view: View) -> Tensor:
        first, *others = [outputs[i] for i in self._source(view)]
        tokens = torch.stack([first, *others]).float().mean(dim=0) if others else first
        if view.pool == "cls":
            return tokens[:, -1 if _cls_is_last(self.backbone) else 0]
        patches = patches_of(tokens, self.backbone).float()
        return patches if view.pool == "patches" else patches.mean(dim=1)


def layer_index(layer: int, num_layers: int) -> int:
    """The index of a layer, counted from 0; a negative one counts from the end.

    Raises:
        ValueError: If there is no such layer.
    """
    if not -num_layers <= layer < num_layers:
        raise ValueError(
            f"layer={layer} is out of range: the encoder has {num_layers} layers, 0 to "
            f"{num_layers - 1}, or -{num_layers} to -1 from the end."
        )
    return layer % num_layers


def _labels(batch: Mapping[str, Any]) -> Tensor:
    return torch.cat([sample.gt_label for sample in batch["data_samples"]])


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
