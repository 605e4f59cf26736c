"""An encoder for those who do not have this package."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..evaluation.frozen_encoder import FrozenEncoder
from ..parity.certificate import Certificate
from ..parity.export_certificate import ExportCertificate
from ..parity.export_graph import GraphPool
from ..utils.atomic_file import check_new, write_text
from ..utils.config_file import read_config_file
from ..weights.encoder_file import read_encoder_file
from ._export_graph import export_graph
from ._export_weights import export_weights
from ._model_card import model_card
from .convert import refuse_given

Format = Literal["pt2", "onnx", "timm", "hf", "official"]
GRAPHS: tuple[Format, ...] = ("pt2", "onnx")
_ENDINGS: dict[Format, tuple[str, ...]] = {
    "pt2": (".pt2",),
    "onnx": (".onnx",),
    "timm": (".safetensors",),
    "hf": ("",),
    "official": (".pth", ".pt"),
}
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

    Raises:
        FileNotFoundError: If there is no such encoder.
        FileExistsError: If there is something already, at ``out`` or for the card.
        OSError: If the result cannot be written.
        ValueError: If an argument is wrong, the encoder cannot be exported that way, or
            the result is too far from the encoder. Then nothing was written.
        ImportError: If the library of the format is not installed.
    """
    out = Path(out)
    kind = _choose(out, format)
    graph_options: dict[str, Any] = dict(
        dynamic_batch=dynamic_batch,
        dynamic_size=dynamic_size,
        pool=pool,
        images=images,
        opset=opset,
    )
    if kind not in GRAPHS:
        reason = f"is of graphs (.pt2, .onnx); format={kind!r} has weights only"
        refuse_given(graph_options, export, reason)
    if pool not in get_args(GraphPool):
        raise ValueError(f"pool={pool!r}: choose one of {list(get_args(GraphPool))}.")
    _check_libraries(kind)
    card = out / "README.md" if kind == "hf" else out.with_name(f"{out.name}.md")
    if card.exists():
        raise FileExistsError(
            f"{card}: is there already, and may have been filled in; move it away or "
            "choose another name."
        )
    check_new(out, is_folder=kind == "hf")
    loaded = FrozenEncoder(encoder, config, num_heads)
    settings = (
        read_config_file(config) if config else read_encoder_file(encoder).settings
    )
    certificate: ExportCertificate | Certificate
    if kind in GRAPHS:
        facts, certificate = export_graph(loaded, out, kind, **graph_options)
    else:
        facts, certificate = export_weights(loaded, out, kind, settings)
    text = model_card(kind, out, loaded, facts, certificate, settings)
    write_text(card, text)
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


def _check_libraries(kind: str) -> None:
    names, extra = _LIBRARIES.get(kind, ((), ""))
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ImportError(
                f"format {kind!r} needs {name}: pip install 'saim_mm[{extra}]', or "
                f"{' '.join(names)}"
            )
