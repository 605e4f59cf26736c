"""A SAIM encoder in the place of the backbone of any OpenMMLab config."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DefaultScope
from mmengine.utils import is_installed

from ..datasets.channel_preprocessor import channels_of
from ..evaluation.encoders import build_encoder
from ..utils.atomic_file import check_new, write_text
from ..utils.command_line import default_device
from ..utils.config_file import read_config_file
from ..utils.quiet_log import quiet_log
from ..weights import CheckpointError
from ._child import child_blocks, child_text
from ._outputs import Outputs, outputs_of, short, without_weights
from ._trial import SCOPES, Trial, train_one_step


@dataclass(frozen=True)
class Adapted:
    """What :func:`adapt` did.

    Attributes:
        text: The child config.
        path: Where it was written, if it was.
        old: Type of the old backbone.
        outputs: What it gives, and the new one too.
        changes: What the child changes, a line each.
        trial: What its first training step took.
    """

    text: str
    path: Path | None
    old: str
    outputs: Outputs
    changes: tuple[str, ...]
    trial: Trial


def adapt(
    config: str | Path,
    encoder: str | Path,
    output: str | Path | None = None,
    num_heads: int | None = None,
    keep_optimizer: bool = False,
    image_size: tuple[int, int] = (256, 256),
) -> Adapted:
    """Puts an encoder into a config by a child config, and trains that for one step.

    The old backbone is asked what it gives, and a ``MultiLevelViT`` gives the same, so
    neck and head stay. Images are normalised as in pretraining, and the optimiser
    becomes AdamW with layer-wise decay.

    Args:
        config: A file, or ``mmdet::PATH``, ``mmseg::PATH`` or ``mmpretrain::PATH``. It
            is run, as any config is.
        encoder: A SAIM pretraining checkpoint or a bare encoder.
        output: Where to write the child; by default it is only returned.
        num_heads: Number of the encoder's heads, where its file does not tell it.
        keep_optimizer: Whether optimiser and schedule stay as they are.
        image_size: Rows and columns of the images that are made up.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If there is something at ``output``.
        CheckpointError: If the encoder does not load completely.
        ValueError: If the config cannot take the encoder; the reason is given.
    """
    path = config_path(config)
    output = None if output is None else Path(output)
    if output is not None:
        check_new(output)
    if min(image_size) < 1:
        raise ValueError(f"image_size={image_size}: give rows and columns, in pixels.")
    loaded = build_encoder(encoder, num_heads=num_heads)
    if channels_of(loaded.preprocessor) is not None:
        raise ValueError(
            f"{encoder}: an encoder of images that are no photographs, and this config "
            "loads photographs; write one with MultiLevelViT as its backbone."
        )
    package, separator, _ = str(config).partition("::")
    is_known = separator and is_installed(MODULE2PACKAGE.get(package, package))
    base = str(config) if is_known else str(path)  # as short as MMEngine understands it
    cfg = read_config_file(path)
    backbone = _old_backbone(cfg, config)
    channels = loaded.backbone.patch_embed.projection.in_channels
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        outputs = outputs_of(backbone, channels)
        blocks, changes = child_blocks(
            cfg, outputs, loaded, Path(encoder), keep_optimizer
        )
        trial = _try(child_text(base, blocks), image_size, config)
    if trial.unreached and not cfg.get("find_unused_parameters"):
        blocks["find_unused_parameters"] = True  # or several GPUs would not train
        changes += ("find_unused_parameters: the heads do not read every level",)
    text = child_text(base, blocks)
    if output is not None:
        write_text(output, text)
    return Adapted(text, output, backbone.type, outputs, changes, trial)


def config_path(config: str | Path) -> Path:
    """The file of a config, which may be given as ``PACKAGE::PATH``.

    OneDL's mmsegmentation is not found by MMEngine under that name.

    Raises:
        FileNotFoundError: If package or file are missing.
    """
    package, separator, inner = str(config).partition("::")
    path = Path(config)
    if separator:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{config}: {package} is not installed.")
        path = Path(spec.origin).parent / ".mim" / "configs" / inner
    if not path.is_file():
        raise FileNotFoundError(f"{config}: there is no config {path}.")
    return path.resolve()


def _old_backbone(cfg: Config, config: str | Path) -> ConfigDict:
    """The backbone of a config that can have a child and be trained.

    Raises:
        ValueError: If it cannot; with the reason.
    """
    scope = cfg.get("default_scope")
    model = cfg.get("model") or ConfigDict()
    reason = ""
    if scope not in SCOPES:
        reason = f"default_scope={scope!r} is none of {sorted(SCOPES)}"
    elif not isinstance(model.get("backbone"), dict):
        reason = f"there is no model.backbone, but {sorted(model) or 'no model'}"
    elif not isinstance(model.backbone.get("type"), str):
        reason = "it is of the new style (read_base), which has no children by _base_"
    elif not cfg.get("optim_wrapper"):
        reason = "there is no optim_wrapper, so it is not for training"
    if reason:
        raise ValueError(f"{config} cannot take the encoder: {reason}.")
    return model.backbone


def _try(text: str, image_size: tuple[int, int], config: str | Path) -> Trial:
    """Trains the child for one step, as it will be read from its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "child.py"
        path.write_text(text, encoding="utf-8")
        child = Config.fromfile(path)
    backbone = child.model.backbone
    child.model = without_weights(child.model)  # a trial needs none but the encoder's
    child.model.backbone = backbone
    device = default_device()
    try:
        with quiet_log():  # or MMEngine has a line for each parameter
            again = device != "cpu"  # for the memory that a second step takes
            return train_one_step(child, image_size, device, again=again)
    except CheckpointError:
        raise
    except Exception as error:  # whatever foreign classes raise
        raise ValueError(
            f"{config} cannot take the encoder: its first training step on made-up "
            f"images {image_size} fails: {short(error)}"
        ) from error
