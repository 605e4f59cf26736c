"""What AIM, NEPA and DINO released, from file to file; as :mod:`convert_files`."""

from __future__ import annotations

import json
from pathlib import Path

from .. import weights
from ..weights import CheckpointError, read_state_dict
from ..weights.rivals import NEPAConfig
from .certificate import Certificate, certify_timm
from .convert_files import write_certified
from .rival_certificates import certify_aim, certify_nepa

#: Channels of a head in every release of AIM.
_AIM_HEAD = 128
#: The weights in NEPA's folder; the first that is there counts, averaged ones before.
_NEPA_WEIGHTS = ("pytorch_model_ema.bin", "model.safetensors", "pytorch_model.bin")


def convert_dino_to_encoder(
    src: Path, dst: Path, num_heads: int | None = None
) -> Certificate:
    """DINO's checkpoint, of which the teacher counts, or backbone -> a bare encoder."""
    state = read_state_dict(src)
    conversion = weights.dino_to_encoder(state)
    used = {key.removeprefix("backbone."): t for key, t in state.items()}
    theirs = {key: t for key, t in used.items() if not key.startswith("head.")}
    found = certify_timm(conversion, conversion.state_dict, theirs, num_heads)
    return write_certified(dst, found)


def convert_aim_to_encoder(
    src: Path, dst: Path, num_heads: int | None = None
) -> Certificate:
    """AIM's backbone, of PyTorch, -> a bare encoder; heads by default width / 128."""
    state = read_state_dict(src)
    conversion = weights.aim_to_encoder(state)
    width = conversion.state_dict["pos_embed"].shape[-1]
    found = certify_aim(conversion, state, num_heads or width // _AIM_HEAD)
    return write_certified(dst, found)


def convert_nepa_to_encoder(src: Path, dst: Path) -> Certificate:
    """NEPA's folder, or weights beside their config.json -> a bare ``RotaryViT``.

    Of a folder the averaged weights are taken, if it has them: all of the authors'
    figures are of those.
    """
    names = [name for name in _NEPA_WEIGHTS if (src / name).is_file()]
    file = src / names[0] if names else src
    config = file.with_name("config.json")
    if not config.is_file():
        raise FileNotFoundError(
            f"{config}: NEPA's config.json must lie beside its weights, one of "
            f"{_NEPA_WEIGHTS} in a folder, or the file that is given."
        )
    try:
        settings = NEPAConfig.parse(json.loads(config.read_text(encoding="utf-8")))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{config}: {error}") from None
    state = read_state_dict(file)
    conversion = weights.nepa_to_encoder(state, settings)
    return write_certified(dst, certify_nepa(conversion, state, settings))
