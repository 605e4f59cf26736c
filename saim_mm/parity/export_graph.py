"""An encoder as one graph, from pixels to features, and the files that hold it.

Symbols: B images, C channels of an image, H and W pixels, N patches, D channels.
"""

from __future__ import annotations

import inspect
import io
import json
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from .._stack import FIRST_TORCH_WITH_DERIVED_DIMS, parse
from ..datasets.channel_preprocessor import are_colours
from ..models import SAIMViT

GraphPool = Literal["avg", "cls", "map"]
#: Runs what a file holds.
Runner = Callable[[Tensor], Tensor]
#: Names of the graph's input and output, and of what may change.
INPUT, OUTPUT = "images", "features"
#: Under this name a file of torch.export has the facts, as JSON.
FACTS = "saim_mm.json"
_BYTES_IN_ONNX = 2**31  # of a file of protobuf
#: The first that the exporter has scaled_dot_product_attention for.
_FIRST_OPSET = 14


class EncoderGraph(nn.Module):
    """Normalises images, encodes them and pools.

    Args:
        backbone: The encoder, with ``out_type="raw"``.
        preprocessor: What normalised its images in training.
        pool: ``avg``, the mean of the patches; ``cls``, the class token; or ``map``,
            the patches where they lie.
        dynamic_size: Whether images may have any size of whole patches. Then position
            embeddings are interpolated inside the graph, at every size.

    Raises:
        ValueError: If the encoder cannot do what is asked, or its normalisation is not
            of its number of channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: SAIMViT,
        preprocessor: BaseDataPreprocessor,
        pool: GraphPool,
        dynamic_size: bool,
    ) -> None:
        super().__init__()
        reason = peculiarity(backbone)
        if dynamic_size and reason:
            raise ValueError(
                f"dynamic_size=True: the encoder {reason}, which a graph has for one "
                "size only. Leave dynamic_size out."
            )
        self.backbone, self.pool, self.dynamic_size = backbone, pool, dynamic_size
        channels = backbone.patch_embed.projection.in_channels
        #: Other images come as they were stored in training.
        self.colours = are_colours(channels, preprocessor)
        self.flip = self.colours and not preprocessor._channel_conversion
        scale = 255.0 if self.colours else 1.0
        for name in ("mean", "std"):
            default = torch.full((1,), float(name == "std") * scale)
            values = getattr(preprocessor, name, default).detach().flatten().float()
            if len(values) not in (1, channels):
                raise ValueError(
                    f"{name} of the normalisation has {len(values)} values and the "
                    f"encoder {channels} channels; give the config it was trained with."
                )
            values = values.cpu() / scale
            self.register_buffer(name, values.reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), not normalised -> (B, D); of ``map`` (B, D, h, w)."""
        if self.flip:
            images = images.flip(1)
        images = (images - self.mean) / self.std
        tokens, grid = self._encode(images)
        if self.pool == "cls":
            return tokens[:, 0]
        patches = tokens[:, self.backbone.num_extra_tokens :]
        if self.pool == "avg":
            return patches.mean(dim=1)
        return patches.transpose(1, 2).unflatten(2, grid)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """All tokens (B, E + N, D), and rows and columns of the patches."""
        vit = self.backbone
        if not self.dynamic_size:
            return vit(images)[-1], tuple(vit.patch_resolution)
        # VisionTransformer.forward, without padding and choices that depend on sizes.
        patches = vit.patch_embed.projection(images)
        grid = patches.shape[-2:]
        patches = patches.flatten(2).transpose(1, 2)
        if vit.patch_embed.norm is not None:
            patches = vit.patch_embed.norm(patches)
        positions = vit.pos_embed[:, vit.num_extra_tokens :].transpose(1, 2)
        positions = F.interpolate(
            positions.unflatten(2, tuple(vit.patch_resolution)),
            size=grid,
            mode=vit.interpolate_mode,
            align_corners=False,
        )
        tokens = patches + positions.flatten(2).transpose(1, 2)
        extra = vit.num_extra_tokens
        if extra:
            cls = vit.cls_token + vit.pos_embed[:, :extra]
            # By shape: the tracer takes a len() for a constant.
            tokens = torch.cat([cls.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = vit.pre_norm(tokens)
        for layer in vit.layers:
            tokens = layer(tokens)
        return (vit.ln1(tokens) if vit.final_norm else tokens), grid


def peculiarity(backbone: SAIMViT) -> str | None:
    """What sets an encoder apart from a plain ViT, if anything does."""
    if backbone.rotary:
        return "has rotary positions"
    if backbone.window_size:
        return "attends within windows"
    if backbone.rel_pos_bias_global is not None:
        return "has a relative position bias"
    if backbone.visible != "all":
        return f"has visible={backbone.visible!r}"
    return None


def write_torch(
    graph: EncoderGraph, dynamic_batch: bool, facts: dict[str, str]
) -> bytes:
    """The content of a ``.pt2``, as ``torch.export.load`` reads it.

    Raises:
        ValueError: If torch is too old, or cannot export the graph.
    """
    if parse(torch.__version__) < FIRST_TORCH_WITH_DERIVED_DIMS:
        needed = ".".join(map(str, FIRST_TORCH_WITH_DERIVED_DIMS[:2]))
        raise ValueError(
            f"torch {torch.__version__}: .pt2 needs torch {needed} or later; export "
            "to .onnx."
        )
    from torch.export import Dim

    dims: dict[int, Any] = {0: Dim("batch", min=1, max=65536)} if dynamic_batch else {}
    if graph.dynamic_size:  # a side of one patch would be a program of its own
        high, wide = graph.backbone.patch_embed.projection.kernel_size
        dims[2] = high * Dim("rows", min=2, max=4096)
        dims[3] = wide * Dim("columns", min=2, max=4096)
    file = io.BytesIO()
    try:
        program = torch.export.export(
            graph, (_example(graph, dynamic_batch),), dynamic_shapes={INPUT: dims}
        )
        torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})
    except Exception as error:  # whatever the exporter finds in a model
        raise _cannot("torch.export", error) from error
    return file.getvalue()


def write_onnx(
    graph: EncoderGraph, dynamic_batch: bool, facts: dict[str, str], opset: int
) -> bytes:
    """The content of an ``.onnx``, checked by ``onnx.checker``.

    By the exporter that traces: it is in every torch from 2.1 on, and needs no further
    package.

    Raises:
        ImportError: If onnx is not installed.
        ValueError: If the weights do not fit into a file, or torch cannot export the
            graph.
    """
    import onnx

    if opset < _FIRST_OPSET:
        raise ValueError(
            f"The encoder cannot be exported by ONNX with opset={opset}: give at least "
            f"{_FIRST_OPSET}, the first for all that a ViT does; 17 is the default."
        )
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    if size >= _BYTES_IN_ONNX:
        raise ValueError(
            f"An ONNX file holds at most 2 GB and the weights have {size / 1e9:.1f}; "
            "export to .pt2."
        )
    axes: dict[int, str] = {0: "batch"} if dynamic_batch else {}
    outer = dict(axes)
    if graph.dynamic_size:
        axes |= {2: "height", 3: "width"}
        outer |= {2: "rows", 3: "columns"} if graph.pool == "map" else {}
    options: dict[str, Any] = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # torch 2.5
        options["dynamo"] = False
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():  # of the tracer, about sizes that are fixed
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                (_example(graph, dynamic_batch),),
                file,  # type: ignore[arg-type]  # as torch 2.1 names it, it may
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: axes, OUTPUT: outer},
                opset_version=opset,
                **options,
            )
        model = onnx.load_from_string(file.getvalue())
        for key, value in facts.items():
            model.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(model)
    except Exception as error:
        raise _cannot(f"ONNX with opset {opset}", error) from error
    return model.SerializeToString()


def run_torch(content: bytes) -> Runner:
    """Runs a ``.pt2``."""
    return torch.export.load(io.BytesIO(content)).module()


def run_onnx(content: bytes) -> Runner:
    """Runs an ``.onnx`` in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        content, options, providers=["CPUExecutionProvider"]
    )
    return lambda images: torch.from_numpy(
        session.run(None, {INPUT: images.numpy()})[0]
    )


def _example(graph: EncoderGraph, dynamic_batch: bool) -> Tensor:
    """Images (B, C, H, W), of two unless the batch is fixed."""
    vit = graph.backbone
    channels = vit.patch_embed.projection.in_channels
    return torch.zeros(1 + dynamic_batch, channels, *vit.img_size)


def _cannot(what: str, error: Exception) -> ValueError:
    first = (str(error).strip().splitlines() or [""])[0]
    return ValueError(
        f"The encoder cannot be exported by {what}: {type(error).__name__}: {first}"
    )
