"""Pictures of a trained model, from its config, its checkpoint and a folder of images.

What the functions share: ``folder`` holds images, nested or flat, of which at most
``number`` are shown, evenly spread; ``seed`` is that of orders and masks.

Symbols: B images of C channels, H x W pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.model import BaseDataPreprocessor
from mmpretrain.models.selfsup import MAE
from torch import Tensor

from ..datasets.channel_preprocessor import channels_of
from ..datasets.data_kinds import kind_of_data
from ..datasets.fixed_view import fixed_view
from ..datasets.image_files import suffixes_of
from ..models import SAIM
from ..utils.command_line import default_device
from ..weights.load_model import load_model
from .attention import attention_maps, attention_sheet
from .completion import Statistics, complete
from .completion_sheet import animation, completion_frames, completion_sheet
from .feature_maps import feature_picture
from .figure import HIDDEN, Picture, save_gif, save_png, stack
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


def read_images(
    folder: str | Path,
    size: tuple[int, int],
    preprocessor: BaseDataPreprocessor,
    number: int | None = None,
) -> Tensor:
    """Reads images, cut to the centre; the same ones every time.

    Args:
        folder: Holds images, nested or flat, or whatever :func:`kind_of_data` knows.
        size: Rows and columns of the result, in pixels.
        preprocessor: What normalises them.
        number: At most so many, evenly spread over the sorted names; by default all.

    Returns:
        (B, C, H, W), on the device of the preprocessor.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no image, or the number is not positive.
    """
    if number is not None and number < 1:
        raise ValueError(f"number={number} of images must be at least 1.")
    channels = channels_of(preprocessor)
    dataset = kind_of_data(folder)(
        str(folder),
        pipeline=fixed_view(size, 1, channels),
        extensions=suffixes_of(channels),
    )
    rows = len(dataset) if number is None else min(number, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, rows).round().astype(int)
    batch = default_collate([dataset[i] for i in chosen.tolist()])
    return preprocessor(batch)["inputs"]


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
    options: dict[str, Any] = {}
    if layers:
        options["layers"] = [layer % depth for layer in layers]
    if position_images:
        many = images_for(model, folder, position_images)
        options["many"] = many.split(batch_size)
        options["note"] = (
            f"The mean at each place over {len(many)} images is subtracted."
        )
    images = images_for(model, folder, number)
    if not backbone.rotary:
        attention = attention_maps(backbone, images, [(0.5, 0.5)])[:, 0]
        options["more"] = {"attention of the centre\n(last layer)": attention}
    return feature_picture(model, images, **options)


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
    title = original_title(model.data_preprocessor)
    if path.suffix == ".gif":
        above = "" if title == "original" else title
        pause = max(0.05, seconds / len(frames))
        save_gif(animation(originals, frames, above), path, pause)
        return
    known = [*range(kept.numel() - hidden, kept.numel(), size), kept.numel()]
    note = "Each hidden patch is predicted from the kept ones"
    note += " alone." if size >= hidden else " and from those predicted before it."
    if model.head.norm_pix:
        source = "its own" if statistics == "true" else "guessed from kept patches"
        note += f"\nBrightness and contrast of a hidden patch are {source}."
    save_png(completion_sheet(originals, frames, known, note, title=title), path)


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
