"""What AIM, NEPA and DINO released, from file to file; as :mod:`convert_files`."""

from __future__ import annotations

from pathlib import Path

from .. import weights
from ..weights import read_state_dict
from ..weights.hub_folder import find_weights
from ..weights.rivals import NEPAConfig
from .certificate import Certificate, certify_timm
from .convert_files import write_certified
from .rival_certificates import certify_aim, certify_nepa


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
    return write_certified(dst, certify_aim(conversion, state, num_heads))


def convert_nepa_to_encoder(src: Path, dst: Path) -> Certificate:
    """NEPA's folder, or weights beside their config.json -> a bare ``RotaryViT``.

    Of a folder the averaged weights are taken, if it has them: all of the authors'
    figures are of those.
    """
    file = find_weights(src)
    settings = NEPAConfig.beside(file)
    state = read_state_dict(file)
    conversion = weights.nepa_to_encoder(state, settings)
    return write_certified(dst, certify_nepa(conversion, state, settings))
