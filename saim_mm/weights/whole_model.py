"""Loading a checkpoint of a whole model: completely, or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..registry import register
from ..utils.model_state import unwrap_model
from .files import CheckpointError, under, weights_of, without_wrappers
from .keymap import describe_foreign
from .loading import MAY_BE_UNUSED, only_in, pretrained_config, shown

#: What either side may have alone: statistics of the images, which the config gives.
MAY_DIFFER = r"data_preprocessor\."
_BACKBONE = "backbone."
#: A backbone's hooks fit these to its grid or window while it loads.
_FITTED = r"pos_embed|rel(?:ative)?_pos"
#: Missing in files of old; MMEngine passes over it, too.
_COUNTER = r".*num_batches_tracked$"


@register("hook")
class CompleteLoadHook(Hook):
    """Stops a run that would load a checkpoint in part.

    MMEngine loads what fits and logs the rest, so that a checkpoint of another layout
    evaluates random weights. This hook looks at the checkpoint just before, after the
    hooks that change it, such as ``EMAHook``.
    """

    priority = "LOWEST"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compares the checkpoint with the model, by :func:`check_complete`."""
        model = unwrap_model(runner.model)
        path = str(getattr(runner, "_load_from", None) or "The checkpoint")
        check_complete(model, weights_of(checkpoint, path), path)


def check_complete(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Checks that a state dict is that of a model, key by key.

    Args:
        model: The whole model.
        state: The state dict, with or without a wrapper's name before every key.
        path: Where it is from, for the error.

    Raises:
        CheckpointError: If a key is missing or unexpected and not in
            :data:`MAY_DIFFER`, or a shape is another. It gives the keys and what to do.
    """
    state = without_wrappers(state)
    own = model.state_dict()
    missing = only_in(own, state, MAY_DIFFER)
    unexpected = only_in(state, own, MAY_DIFFER)
    if missing or unexpected:
        bare = any(key.startswith("layers.") for key in state)
        foreign = "" if bare else f"{describe_foreign(state)} ".lstrip()
        raise CheckpointError(
            f"{path}: not a checkpoint of this {type(model).__name__}. "
            f"Missing: {shown(missing)}. Unexpected: {shown(unexpected)}. {foreign}"
            "Give a checkpoint that tools/train.py wrote with this config. An encoder "
            "without its head can only be trained from: "
            "model.backbone.init_cfg.checkpoint=FILE."
        )
    # The model fits the position embedding to its grid while it loads.
    for key in _other_shapes(own, state, r"pos_embed$"):
        raise CheckpointError(
            f"{path}: {key!r} has shape {tuple(state[key].shape)} and the model's "
            f"{tuple(own[key].shape)}; give the checkpoint of this config, or the "
            "config (arch, patch_size, num_classes, ...) of this checkpoint."
        )


def check_backbone(model: nn.Module, checkpoint: Mapping[str, Any], path: str) -> None:
    """Checks that the backbone of a model is completely in a checkpoint.

    MMEngine would train what it lacks from scratch, and only log it. The rest of the
    model may be another, such as a head for other classes. Models without ``backbone``
    are not looked at.

    Raises:
        CheckpointError: If a weight of the backbone is missing, has another shape, or
            has no place in the model.
    """
    given = without_wrappers(checkpoint.get("state_dict", checkpoint))
    own = under(unwrap_model(model).state_dict(), _BACKBONE)
    found = under(given, _BACKBONE)
    wrong = {
        "missing": only_in(own, found, _COUNTER),
        "of another shape": _other_shapes(own, found, _FITTED),
        "without a place in the model": only_in(found, own, MAY_BE_UNUSED),
    }
    said = [f"{shown(keys)} {what}" for what, keys in wrong.items() if keys]
    if own and said:
        raise CheckpointError(
            f"{path}: not the backbone of this {type(unwrap_model(model)).__name__}: "
            f"{'; '.join(said)}. {describe_foreign(given)} load_from and resume take "
            "checkpoints of this model, whose head may be another. Of an encoder write "
            "model.backbone.init_cfg.checkpoint=FILE and load_from=None."
        )


def _other_shapes(
    own: Mapping[str, Tensor], found: Mapping[str, Any], fitted: str
) -> list[str]:
    """Keys of both whose shapes differ, but for those that are fitted on loading."""
    return [
        key
        for key in own
        if key in found
        and not re.search(fitted, key)
        and own[key].shape != getattr(found[key], "shape", None)
    ]


def forget_pretrained(model: nn.Module) -> list[str]:
    """Takes the pretrained weights out of a model's ``init_cfg``.

    For a run that goes on from a checkpoint of its own: that holds every weight, and
    the file with the pretrained ones may be gone.

    Args:
        model: A model whose weights are not initialised yet.

    Returns:
        Names of the modules that will start from scratch.
    """
    changed = []
    for name, module in model.named_modules():
        try:
            pretrained = bool(pretrained_config(getattr(module, "init_cfg", None)))
        except CheckpointError:  # it names no file
            pretrained = True
        if pretrained:
            module.init_cfg = None
            changed.append(name)
    return changed
