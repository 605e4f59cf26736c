"""State dicts: read, write, checksum, rename keys, load an encoder or a model.

* :mod:`files` reads and writes; nothing in a file is ever executed. :mod:`safe_loader`
  makes that true of all that MMEngine loads, where it is asked to;
  :mod:`allowed_types` says what a file may hold, :mod:`numpy_pickles` how numpy's part
  of it is built, :mod:`nested` walks through what was read, and :mod:`old_torch` is
  the reader of torch before 2.5.
* :mod:`checksum_trailer` puts a file's SHA-256 into it; :mod:`resume` finds the
  newest good checkpoint of a run.
* :mod:`conversions`, and :mod:`rivals` for AIM, NEPA and DINO, rename keys, as pure
  functions on state dicts, by the tables in :mod:`layouts`; :mod:`keymap` applies a
  table and accounts for every key.
* :mod:`position` fits an encoder's positions to another grid, and :mod:`channels` its
  patch embedding to another number of image channels.
* :mod:`loading` puts an encoder into a task model, :mod:`whole_model` a checkpoint into
  a model, completely or not at all.
"""

from .conversions import (
    encoder_to_hf,
    encoder_to_timm,
    finetuned_to_release,
    hf_to_encoder,
    release_to_finetuned,
    release_to_saim,
    saim_to_encoder,
    saim_to_release,
    timm_to_encoder,
)
from .files import (
    CheckpointError,
    StateDict,
    read_checkpoint,
    read_state_dict,
    write_state_dict,
)
from .keymap import Conversion
from .loading import LoadReport, load_encoder
from .resume import verify_checkpoint
from .rivals import aim_to_encoder, dino_to_encoder, nepa_to_encoder
from .safe_loader import install_safe_loader, uninstall_safe_loader

__all__ = [
    "CheckpointError",
    "Conversion",
    "LoadReport",
    "StateDict",
    "aim_to_encoder",
    "dino_to_encoder",
    "encoder_to_hf",
    "encoder_to_timm",
    "finetuned_to_release",
    "hf_to_encoder",
    "install_safe_loader",
    "load_encoder",
    "nepa_to_encoder",
    "read_checkpoint",
    "read_state_dict",
    "release_to_finetuned",
    "release_to_saim",
    "saim_to_encoder",
    "saim_to_release",
    "timm_to_encoder",
    "uninstall_safe_loader",
    "verify_checkpoint",
    "write_state_dict",
]
