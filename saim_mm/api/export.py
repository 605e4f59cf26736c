"""An encoder for those who do not have this package."""

from __future__ import annotations

import importlib.util
import inspect
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mmengine.config import Config

from ..evaluation.frozen_encoder import FrozenEncoder
from ..parity.certificate import Certificate
from ..parity.export_certificate import ExportCertificate
from ..parity.export_graph import GraphPool
from ..utils.atomic_file import write_atomically
from ..weights.encoder_file import read_encoder_file
from ._export_graph import export_graph, graph_facts
from ._export_weights import export_weights, weights_facts
from ._model_card import model_card

Format = Literal["pt2", "onnx", "timm", "hf", "official"]
GRAPHS: tuple[Format, ...] = ("pt2", "onnx")
_ENDINGS: dict[Format, tuple[str, ...]] = {
    "pt2": (".pt2",),
    "onnx": (".onnx",),
    "timm": (".safetensors",),
    "hf": ("",),
    "official": (".pth", ".pt"),
}
_KINDS = {True: "folder", False: "file"}
#: Format -> what it needs, and the extra that has it.
_LIBRARIES = {
    "onnx": (("onnx", "onnxruntime"), "export"),
    "timm": (("safetensors", "timm"), "convert"),
    "hf": (("safetensors", "transformers"), "convert"),
}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file, or the folder.
        card: The model card.
        certificate: What proves that it computes what the encoder does.
    """

    path: Path
    card: Path
    certificate: ExportCertificate | Certificate


def export(
    encoder: str | Path,
    out: str | Path,
    *,
    format: Format | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    pool: GraphPool = "avg",
    images: str | Path | None = None,
    num_heads: int | None = None,
    config: str | Path | None = None,
    opset: int = 17,
) -> Exported:
    """Writes an encoder in another format, certified, with a model card beside it.

    A graph (``pt2``, ``onnx``) includes the normalisation, as neither file nor user
    would else know it: it takes RGB in [0, 1], float32 (B, 3, H, W), or with another
    number of channels the values that the encoder was trained on. Formats of weights
    (``timm``, ``hf``, ``official``) have no place for it; the card tells it.

    Args:
        encoder: A file that :func:`saim_mm.load_encoder` reads. For ``official``, a
            pretraining checkpoint of ours, with its decoder.
        out: Where the result goes; the card is OUT.md, or README.md in a folder.
        format: ``pt2`` (torch.export), ``onnx``, ``timm`` (``.safetensors``), ``hf`` (a
            folder for transformers) or ``official`` (the layout of SAIM's authors). By
            default the ending tells ``pt2`` and ``onnx``.
        dynamic_batch: Whether a graph takes any number of images, not only one.
        dynamic_size: Whether a graph takes any size that is a multiple of the patch,
            and interpolates its positions.
        pool: What a graph gives: ``avg``, the mean of the patches (B, D); ``cls``, the
            class token (B, D); or ``map``, the patches (B, D, rows, columns).
        images: A folder of images that a graph is certified on. By default sample
            photographs, or noise where there are none; the certificate says which.
        num_heads: Number of heads, where nothing else tells; by default width / 64.
        config: The config that the encoder was trained with.
        opset: Of ONNX.

    Returns:
        Where everything is, and the certificate.

    Raises:
        FileNotFoundError: If there is no such encoder.
        FileExistsError: If there is a card already, which may have been filled in.
        OSError: If the result cannot be written.
        ValueError: If an argument is wrong, the encoder cannot be exported that way, or
            the result is too far from the encoder. Then nothing was written.
        ImportError: If the library of the format is not installed.
    """
    out = Path(out)
    kind = _choose(out, format)
    graph_options = dict(
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        pool=pool,
        images=images,
        opset=opset,
    )
    if kind not in GRAPHS:
        _refuse_options(kind, graph_options)
    if pool not in get_args(GraphPool):
        raise ValueError(f"pool={pool!r}: choose one of {list(get_args(GraphPool))}.")
    _check_libraries(kind)
    card = out / "README.md" if kind == "hf" else out.with_name(f"{out.name}.md")
    _check_place(out, card, kind)
    loaded = FrozenEncoder(encoder, config, num_heads)
    settings = (
        Config.fromfile(config) if config else read_encoder_file(encoder).settings
    )
    certificate: ExportCertificate | Certificate
    if kind == "pt2" or kind == "onnx":
        facts = graph_facts(loaded, pool, dynamic_batch, dynamic_size)
        certificate = export_graph(
            loaded, out, kind, dynamic_batch, dynamic_size, pool, images, opset, facts
        )
    else:
        facts = weights_facts(loaded)
        certificate = export_weights(loaded, out, kind, settings)
    text = model_card(kind, out, loaded, facts, certificate, settings)
    write_atomically(card, lambda file: file.write(text.encode()))
    return Exported(out, card, certificate)


def _choose(out: Path, format: Format | None) -> Format:
    """The format that is meant; the ending must fit it."""
    if format is None:
        for kind in GRAPHS:
            if out.suffix in _ENDINGS[kind]:
                return kind
        raise ValueError(
            f"{out}: the ending {out.suffix!r} does not tell the format; end it with "
            ".pt2 or .onnx, or give format='timm' (.safetensors), 'hf' (a folder) or "
            "'official' (.pth)."
        )
    if format not in _ENDINGS:
        raise ValueError(f"format={format!r}: choose one of {list(_ENDINGS)}.")
    if format != "hf" and out.suffix not in _ENDINGS[format]:
        raise ValueError(
            f"{out}: format={format!r} is written to {' or '.join(_ENDINGS[format])}."
        )
    return format


def _refuse_options(kind: str, options: Mapping[str, object]) -> None:
    defaults = inspect.signature(export).parameters
    for name, value in options.items():
        if value != defaults[name].default:
            raise ValueError(
                f"{name}={value!r} is of graphs (.pt2, .onnx); format={kind!r} has "
                "weights only."
            )


def _check_libraries(kind: str) -> None:
    names, extra = _LIBRARIES.get(kind, ((), ""))
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"format {kind!r} needs {name}: pip install 'saim_mm[{extra}]', or "
                f"{' '.join(names)}"
            )


def _check_place(out: Path, card: Path, kind: str) -> None:
    """Stops before any work what could not be written after it."""
    if card.exists():
        raise FileExistsError(
            f"{card}: is there already, and may have been filled in; move it away or "
            "choose another name."
        )
    folder = out if kind == "hf" else out.parent
    if out.exists() and out.is_dir() != (kind == "hf"):
        raise ValueError(f"{out}: format {kind!r} is a {_KINDS[kind == 'hf']}.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
