"""Pictures of a trained model, from its config, its checkpoint and a folder of images.

What the functions share: ``folder`` holds images, nested or flat, of which at most
``number`` are shown, evenly spread; ``seed`` is that of orders and masks.

Symbols: B images of C channels, H x W pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmpretrain.models.selfsup import MAE
from torch import Tensor

from ..models import SAIM
from ..utils.command_line import default_device
from ..weights.load_model import load_model
from .attention import attention_maps, attention_sheet
from .completion import Statistics, complete
from .completion_sheet import animation, completion_frames, completion_sheet
from .feature_maps import (
    default_layers,
    feature_maps,
    feature_sheet,
    mean_by_place,
)
from .figure import HIDDEN, Picture, save_gif, save_png, stack
from .image_folder import read_images
from .mae import reconstruct_with_mae
from .position_error import draw_position_error, position_errors
from .reconstruction import original_title, reconstruction_sheet, to_rgb
from .run_files import read_start, run_files

#: Config and checkpoint of one model.
Files = tuple[Path, Path]


def load_saim(
    config: str | Path, checkpoint: str | Path, device: torch.device | str = "cpu"
) -> SAIM:
    """Loads a model as :func:`load_model` does, which must be a SAIM.

    Raises:
        ValueError: If it is another; further errors as for :func:`load_model`.
    """
    model = load_model(config, checkpoint, device)
    if not isinstance(model, SAIM):
        raise ValueError(f"{config}: describes a {type(model).__name__}, not a SAIM.")
    return model


def images_for(model: SAIM, folder: str | Path, number: int | None = None) -> Tensor:
    """Images of a folder as the model reads them (B, C, H, W), by default all."""
    size = tuple(model.backbone.img_size)
    return read_images(folder, size, model.data_preprocessor, number)


def draw_predictions(
    model: SAIM, folder: str | Path, number: int = 6, seed: int = 0
) -> Picture:
    """Predictions beside originals of some images of a folder."""
    images = images_for(model, folder, number)
    generator = torch.Generator(images.device).manual_seed(seed)
    order = model.order_sampler.draw(len(images), images.device, generator)
    return reconstruction_sheet(model, images, order)


def draw_reconstruction(
    model: SAIM,
    folder: str | Path,
    number: int = 6,
    seed: int = 0,
    mae: Files | None = None,
    curve_images: int = 256,
    batch_size: int = 64,
) -> Picture:
    """Predictions beside originals, and below them the error by visible patches.

    ``mae`` is config and checkpoint of an MAE of mmpretrain to compare with. The error
    is averaged over ``curve_images`` images, of a smaller folder over several orders of
    each; ``batch_size`` of them are read at a time.

    Raises:
        ValueError: If ``mae`` is of another model, or for images of another size.
    """
    images = images_for(model, folder, number)
    generator = torch.Generator(images.device).manual_seed(seed)
    order = model.order_sampler.draw(len(images), images.device, generator)
    baselines = _mae_columns(model, mae, folder, number, seed) if mae else None
    sheet = reconstruction_sheet(model, images, order, baselines)

    many = images_for(model, folder, curve_images)
    # Of few images several orders, or the curve would be noise.
    orders = max(1, curve_images // len(many))
    errors = position_errors(model, many.split(batch_size), generator, orders)
    loss = model.head.loss_kind
    curve = draw_position_error(errors, model.order_sampler, loss, orders)
    return stack([sheet, curve])


def _mae_columns(
    model: SAIM, files: Files, folder: str | Path, number: int, seed: int
) -> dict[str, np.ndarray]:
    """MAE's mask and its reconstruction of the same images."""
    baseline = load_model(*files, next(model.parameters()).device)
    if not isinstance(baseline, MAE):
        raise ValueError(f"{files[0]}: describes a {type(baseline).__name__}, not MAE.")
    size = tuple(model.backbone.img_size)
    if tuple(baseline.backbone.img_size) != size:
        raise ValueError(
            f"{files[0]}: is for images of {baseline.backbone.img_size} pixels, and "
            f"the SAIM for {size}; give models for the same size."
        )
    images = read_images(folder, size, baseline.data_preprocessor, number)
    result = reconstruct_with_mae(baseline, images, seed)
    masked = to_rgb(images, baseline.data_preprocessor)
    masked[result.hidden.cpu().numpy()] = HIDDEN
    return {
        "mask of MAE": masked,
        "MAE's reconstruction": to_rgb(result.images, baseline.data_preprocessor),
    }


def draw_attention(
    models: Mapping[str, SAIM],
    folder: str | Path,
    points: Sequence[tuple[float, float]],
    number: int = 6,
) -> Picture:
    """What points of images attend to in each of some models.

    The models are given by the title of their column, and the images are shown as the
    last one reads them. ``points`` are (x, y), as shares of width and height.
    """
    maps = {}
    for title, model in models.items():
        images = images_for(model, folder, number)
        maps[title] = attention_maps(model.backbone, images, points)
    given = model.data_preprocessor
    return attention_sheet(to_rgb(images, given), maps, points, original_title(given))


def draw_feature_maps(
    model: SAIM,
    folder: str | Path,
    layers: Sequence[int] | None = None,
    number: int = 6,
    position_images: int = 0,
    batch_size: int = 64,
) -> Picture:
    """Features of patches as colours, beside what the centre attends to.

    ``layers`` are counted from 0, or from the last one, which is -1; by default the
    middle and the last one. With ``position_images``, the mean feature at each place
    over so many images is subtracted first, ``batch_size`` of them at a time.

    Raises:
        ValueError: If there is no such layer.
    """
    backbone, depth = model.backbone, len(model.backbone.layers)
    for layer in layers or ():
        if not -depth <= layer < depth:
            raise ValueError(f"layer {layer} is none of the {depth}, 0 to {depth - 1}.")
    chosen = [layer % depth for layer in layers or default_layers(backbone)]
    images, positions, note = images_for(model, folder, number), None, ""
    if position_images:
        many = images_for(model, folder, position_images)
        positions = mean_by_place(backbone, many.split(batch_size), chosen)
        note = f"The mean at each place over {len(many)} images is subtracted."
    maps = feature_maps(backbone, images, chosen, positions)
    if not backbone.rotary:
        attention = attention_maps(backbone, images, [(0.5, 0.5)])[:, 0]
        maps = {"attention of the centre\n(last layer)": attention, **maps}
    given = model.data_preprocessor
    return feature_sheet(to_rgb(images, given), maps, note, original_title(given))


def draw_completion(
    model: SAIM,
    folder: str | Path,
    kept: Tensor,
    path: Path,
    number: int = 6,
    seed: int = 0,
    steps: int | None = None,
    statistics: Statistics = "kept",
    seconds: float = 5.0,
) -> None:
    """Writes how a model completes images, as a contact sheet or an animation.

    ``kept`` (rows, columns) is ``True`` where a patch is not hidden, ``path`` ends in
    ``.png`` for a sheet and ``.gif`` for an animation of so many ``seconds``, ``steps``
    is one for each hidden patch by default, and ``statistics`` as for :func:`complete`.

    Raises:
        ValueError: If the file or the steps cannot be, or as for :func:`complete`.
    """
    if path.suffix not in (".png", ".gif"):
        raise ValueError(f"{path} must end in .png or .gif.")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps} must be at least 1.")
    images = images_for(model, folder, number)
    hidden, length = int((~kept).sum()), model.order_sampler.segment_length
    size = max(1, -(-hidden // ((steps or max(1, hidden)) * length))) * length
    generator = torch.Generator(images.device).manual_seed(seed)
    completion = list(complete(model, images, kept, size, statistics, generator))
    frames = completion_frames(completion, model.data_preprocessor)
    originals = to_rgb(images, model.data_preprocessor)
    if path.suffix == ".gif":
        pause = max(0.05, seconds / len(frames))
        save_gif(animation(originals, frames), path, pause)
        return
    shares = [step.known[0].float().mean().item() for step in completion]
    known = [round(share * kept.numel()) for share in shares]
    note = _describe(size >= hidden, model.head.norm_pix, statistics)
    title = original_title(model.data_preprocessor)
    save_png(completion_sheet(originals, frames, known, note, title=title), path)


def _describe(one_pass: bool, norm_pix: bool, statistics: Statistics) -> str:
    """What the reader of a sheet must know."""
    note = "Each hidden patch is predicted from the kept ones"
    note += " alone." if one_pass else " and from those predicted before it."
    if norm_pix:
        source = "its own" if statistics == "true" else "guessed from kept patches"
        note += f"\nBrightness and contrast of a hidden patch are {source}."
    return note


def draw_newest(
    work_dir: Path,
    folder: str | Path,
    number: int = 6,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """Predictions of a run's newest checkpoint, by its name.

    ``work_dir`` is that of a run which logged its config; the model runs on ``device``.

    Raises:
        ValueError: If there is no config or no checkpoint.
    """
    configs = run_files(work_dir, "*/vis_data/config.py")
    if not configs:
        raise ValueError(
            f"{work_dir} holds no config, by which a model could be built."
        )
    checkpoint = _newest_checkpoint(work_dir)
    model = load_saim(configs[-1], checkpoint, device)
    return {checkpoint.name: draw_predictions(model, folder, number, seed)}


def _newest_checkpoint(work_dir: Path) -> Path:
    """The checkpoint that ``last_checkpoint`` names, or else the newest file."""
    note = work_dir / "last_checkpoint"
    if note.is_file():
        named = read_start(note, 4096)[0].decode(errors="replace").strip()
        if (work_dir / Path(named).name).is_file():
            return work_dir / Path(named).name
    files = [path for path in work_dir.glob("*.pth") if path.is_file()]
    files.sort(key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError(f"{work_dir} holds no checkpoint to draw predictions of.")
    return files[-1]


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds ``--out``."""
    help = "where the picture goes (default: %(default)s)"
    parser.add_argument(
        "--out", type=Path, default=Path(default), metavar="FILE", help=help
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds config, checkpoint and folder, in this order, and what goes with them."""
    add = parser.add_argument
    add("config", type=Path, help="config of pretraining")
    add("checkpoint", type=Path, help="checkpoint of that run")
    add("images", type=Path, help="folder of images, nested or flat")
    add("--number", type=int, default=6, metavar="N", help="images shown (default: 6)")
    add("--seed", type=int, default=0, help="of orders and masks")
    add("--device", default=default_device())
