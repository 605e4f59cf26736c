"""Checkpoints: reading and writing files, key maps between layouts, loading.

* :mod:`files` reads and writes; nothing in a file is ever executed. :mod:`safe_loader`
  makes that true of all that MMEngine loads, too.
* :mod:`verified_backend` writes a run's checkpoints: with a checksum (:mod:`seal`),
  whole or not at all (:mod:`atomic`), of :mod:`plain` values. :mod:`resume` finds the
  newest good one.
* :mod:`conversions` renames keys, as pure functions on state dicts, by the tables in
  :mod:`layouts`; :mod:`keymap` applies a table and accounts for every key.
* :mod:`loading` puts an encoder into a task model, or stops.
* :mod:`certificate` builds and runs both sides of a conversion. It is not imported
  here: it needs the models, and the models need this package.
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

__all__ = [
    "CheckpointError",
    "Conversion",
    "LoadReport",
    "StateDict",
    "encoder_to_hf",
    "encoder_to_timm",
    "finetuned_to_release",
    "hf_to_encoder",
    "load_encoder",
    "read_checkpoint",
    "read_state_dict",
    "release_to_finetuned",
    "release_to_saim",
    "saim_to_encoder",
    "saim_to_release",
    "timm_to_encoder",
    "verify_checkpoint",
    "write_state_dict",
]
