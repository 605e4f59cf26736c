"""Reading and writing checkpoint files. Nothing in a file is ever executed."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..utils.atomic_file import write_atomically
from .allowed_types import allowing, known_globals, restore
from .checksum_trailer import check_intact, write_with_sha256
from .errors import CheckpointError
from .numpy_pickles import Allowed

StateDict = dict[str, Tensor]
#: What torch says of the modules, beside the keys, in a ``.safetensors`` file.
_NOTES = "state_dict_metadata"
_WRAPPERS = r"(?:module\.|_orig_mod\.)*"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a whole file of ``torch.save``, or of ``.safetensors``, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, is no checkpoint or wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such checkpoint file; give the path of a local file "
            "(.pth, .pt or .safetensors; download it first if it is on the net)."
        )
    read = _read_safetensors if path.suffix == ".safetensors" else read_torch
    content = read(path)
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, not a dict of tensors; save "
            "model.state_dict() instead."
        )
    return content


def read_state_dict(path: str | Path) -> StateDict:
    """Reads the weights of a checkpoint file.

    Args:
        path: As for :func:`read_checkpoint`. The weights may lie under ``state_dict``
            (MMEngine), ``model`` (the authors' release) or ``teacher`` (DINO's, which
            also has a student), or be the whole file.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is refused or holds no state dict.
    """
    return weights_of(read_checkpoint(path), path)


def weights_of(content: Mapping[str, Any], path: str | Path) -> StateDict:
    """The state dict in what :func:`read_checkpoint` returned."""
    nested = (content.get(key) for key in ("state_dict", "model", "teacher"))
    content = next((part for part in nested if isinstance(part, Mapping)), content)
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise CheckpointError(
            f"{path}: holds no state dict: entries {others[:8]} of {len(content)} are "
            "no tensors. Weights must lie under 'state_dict', 'model' or 'teacher', or "
            "be the whole file."
        )
    return without_wrappers(content)


def under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What lies under a prefix, without it."""
    named = ((str(key), value) for key, value in state.items())
    return {k.removeprefix(prefix): v for k, v in named if k.startswith(prefix)}


def without_wrappers(state: Mapping[str, Any]) -> dict[str, Any]:
    """Takes off what ``DataParallel`` and ``torch.compile`` put before all keys.

    What torch says of the modules beside the keys goes on being said.
    """
    wrappers = re.match(_WRAPPERS, str(next(iter(state), "")))
    prefix = wrappers[0] if wrappers else ""
    while not all(str(key).startswith(prefix) for key in state):
        prefix = prefix[: prefix.rstrip(".").rfind(".") + 1]
    plain = OrderedDict(state)
    if prefix:
        plain = OrderedDict((k[len(prefix) :], v) for k, v in state.items())
    notes = getattr(state, "_metadata", None)
    if isinstance(notes, Mapping):
        # By module, without the full stop; the wrapper's own come first.
        plain._metadata = {  # type: ignore[attr-defined]
            f"{name}.".removeprefix(prefix).removesuffix("."): note
            for name, note in notes.items()
            if isinstance(note, Mapping)
        }
    return plain


def write_state_dict(
    path: str | Path,
    state: Mapping[str, Tensor],
    key: str | None = "state_dict",
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Writes weights, whole or not at all.

    Args:
        path: Ends with ``.pth``, ``.pt`` or ``.safetensors``, which chooses the format.
        state: The state dict.
        key: Key that the state dict lies under; ``None`` for none. A ``.safetensors``
            file is always flat.
        meta: Plain values and tensors, written under ``meta``; not in ``.safetensors``.

    Raises:
        CheckpointError: If the suffix is another one.
    """
    path = Path(path)
    notes = getattr(state, "_metadata", None)
    # A view would drag its whole storage into the file.
    state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    if path.suffix == ".safetensors":
        save = _safetensors(path).save
        contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
        said = {_NOTES: json.dumps(notes)} if notes else {}
        data = save(contiguous, metadata={"format": "pt", **said})
        write_atomically(path, lambda file: file.write(data))
    elif path.suffix in (".pth", ".pt"):
        if notes:
            state = OrderedDict(state)
            state._metadata = notes  # type: ignore[attr-defined]
        content: dict[str, Any] = state if key is None else {key: state}
        if meta is not None:
            content = {"meta": dict(meta), **content}
        write_sealed(path, content)
    else:
        raise CheckpointError(
            f"{path}: the suffix {path.suffix!r} names no format; end the name with "
            ".pth, .pt or .safetensors."
        )


def write_sealed(path: Path, content: Any) -> None:
    """Writes what ``torch.save`` makes of it, with its checksum, or nothing."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda file: write_with_sha256(file, buffer.getvalue()))


def read_torch(
    path: Path,
    map_location: Any = "cpu",
    known: Allowed | None = None,
    mmap: bool = False,
    check: bool = True,
) -> Any:
    """Reads a file of ``torch.save``; what its pickle names is never looked up.

    Args:
        path: The file. Its checksum is compared, or else those of the ZIP archive.
        map_location: As for ``torch.load``.
        known: What may stand in the file beside tensors and plain values; by default
            :func:`known_globals`.
        mmap: Leave the tensors on the disk until they are used, if the format lets it.
        check: False for a file whose checksum was compared just now.

    Raises:
        CheckpointError: If the file is damaged, is no checkpoint or wants to run code.
    """
    intact = check and check_intact(path)
    mmap = mmap and (intact or not check)
    if known is None:
        known = known_globals()
    try:
        with allowing(known), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol
            content = torch.load(
                str(path), map_location=map_location, weights_only=True, mmap=mmap
            )
        return restore(content)
    except (PermissionError, MemoryError):
        raise
    except CheckpointError as error:
        raise CheckpointError(refused(path, error)) from None
    except Exception as error:  # a damaged file can make the reader raise anything
        raise CheckpointError(explain(path, str(error), intact)) from None


def refused(path: str | Path, error: CheckpointError) -> str:
    """One line for what a sound file holds and may not."""
    return (
        f"{path}: refused: it {error}. Save it anew with plain numbers, strings and "
        "tensors instead."
    )


def explain(path: str | Path, error: str, intact: bool = False) -> str:
    """One line for why torch would not read a file, whose checksums may fit."""
    refused = re.search(r"GLOBAL (\S+)", error)
    if refused is not None:
        return (
            f"{path}: refused, because reading it would run code: it asks for "
            f"{refused[1]!r}, which is no part of a checkpoint. Do not open it in "
            "another way unless you trust its author; ask for a file of plain tensors "
            "(torch.save(model.state_dict(), ...)) or .safetensors. If you trust "
            "author and class, call saim_mm.weights.install_safe_loader(allow="
            f"[{refused[1]!r}]) before, or set custom_hooks=[dict(type="
            f"'SafeLoaderHook', allow=[{refused[1]!r}])] in the config."
        )
    if re.search(r"not in a subdirectory|locating file data\.pkl", error):
        return (
            f"{path}: is no checkpoint but a ZIP archive that torch.save did not "
            "write, such as .npz or .pt2; give a file of weights (.pth, .safetensors)."
        )
    told = re.search(r"(?:WeightsUnpickler error:\s*)(\S.*)", error)
    reason = told[1] if told else (error.strip().splitlines() or ["it ends early"])[0]
    # A byte that is no instruction, or the instruction that the first letter is.
    if reason.isdecimal() or reason.startswith("Memo value not found"):
        reason = "it does not begin as one"
    if intact or reason.startswith("Can only"):  # a list of a class of its own, say
        return (
            f"{path}: refused, as torch restores no such file without running code "
            f"({reason[:160]}). If you trust its author, load it after "
            "saim_mm.weights.uninstall_safe_loader(), and save its state dict anew."
        )
    return (
        f"{path}: truncated, damaged or not a checkpoint of plain tensors "
        f"({reason[:160]}). Copy or download it again and compare its size."
    )


def _read_safetensors(path: Path) -> StateDict:
    library = _safetensors(path)
    from safetensors import SafetensorError, safe_open

    try:
        state: StateDict = OrderedDict(library.load_file(path, device="cpu"))
        with safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {}).get(_NOTES, "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(explain(path, str(error))) from None
    state._metadata = notes  # type: ignore[attr-defined]
    return state


def _safetensors(path: Path) -> Any:
    """The optional library, imported only for files that need it."""
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError(
            f"{path}: .safetensors needs a library that is not installed; run "
            "'pip install safetensors', or use .pth."
        ) from None
    return safetensors.torch
