"""How far each process of a run has come, and which one keeps the others waiting."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from traceback import walk_stack
from types import CodeType, FrameType
from typing import NamedTuple

import mmengine
import torch
from mmengine.runner import BaseLoop, Runner

_TORCH, _MMENGINE = Path(torch.__path__[0]), Path(mmengine.__path__[0])
_FRAMEWORK = (f"{_TORCH}/", f"{_MMENGINE}/")
#: Where a process is when it waits for others: in a collective, or in the backward pass
#: that ends with one.
_WAITS = tuple(
    str(_TORCH / part)
    for part in ("distributed/", "nn/parallel/distributed.py", "autograd/")
)
#: Functions of torch.compile that run only while something is compiled.
_COMPILES = {
    (str(_TORCH / "_dynamo" / "convert_frame.py"), "_compile"),
    (str(_TORCH / "_inductor" / "compile_fx.py"), "compile_fx_inner"),
}


class Heartbeat(NamedTuple):
    """What a process says about itself.

    Attributes:
        number: Counts the beats, so that a process that is frozen can be told.
        position: Twice the iterations finished since this process began to train, and
            one more within a step.
        seconds: How long it has been there, not counting what may take its time.
        busy: Whether it does what may take its time: hooks, validation, compiling.
        waits: Whether it waits for another process, as far as one can see.
        code_location: File, line and function that it is in.
    """

    number: int
    position: int
    seconds: float
    busy: bool
    waits: bool
    code_location: str

    def describe(self, first: int) -> str:
        """In words; ``first`` iterations were finished before."""
        finished, stepping = divmod(self.position, 2)
        doing = "in the step of" if stepping else "loading the batch of"
        if self.busy:
            doing = "in a hook, validating or compiling at"
        return f"{doing} iteration {first + finished + 1}, {self.code_location}"


def patient_code(runner: Runner) -> set[CodeType]:
    """The functions of a run that may take any time."""
    # Those that are built: to ask for another would build it, and read its data.
    loops = (runner._val_loop, runner._test_loop)
    runs = [type(loop).run for loop in loops if isinstance(loop, BaseLoop)]
    return {inspect.unwrap(f).__code__ for f in (Runner.call_hook, *runs)}


def is_busy(frame: FrameType, patient: Collection[CodeType]) -> bool:
    """Whether a thread is in a function that may take any time, or compiles."""
    return any(
        f.f_code in patient or (f.f_code.co_filename, f.f_code.co_name) in _COMPILES
        for f, _ in walk_stack(frame)
    )


def is_waiting(frame: FrameType) -> bool:
    """Whether a thread seems to wait for other processes."""
    return frame.f_code.co_filename.startswith(_WAITS)


def code_location_of(frame: FrameType) -> str:
    """Where a thread is, and the innermost function outside of torch and MMEngine."""
    own = (
        f
        for f, _ in walk_stack(frame)
        if not f.f_code.co_filename.startswith(_FRAMEWORK)
    )
    caller = next(own, frame)
    text = _describe(frame)
    return text if caller is frame else f"{text}, called from {_describe(caller)}"


def _describe(frame: FrameType) -> str:
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno} ({code.co_name})"


def stuck_ranks(beats: Mapping[int, Heartbeat], timeout: float) -> list[int]:
    """The processes that keep the others waiting, and have for too long.

    All stop when one of them does. It is the one that has come least far, and if
    several have come as far, one that waits for nobody. Until the first iteration is
    done nobody is: connecting, or MMEngine's way of resuming, may take any time.

    Args:
        beats: The last beat of each process, by rank.
        timeout: Seconds that one may stay at a position.
    """
    last = min(beat.position for beat in beats.values())
    behind = {rank: beat for rank, beat in beats.items() if beat.position == last}
    if last < 2 or any(beat.busy for beat in behind.values()):
        return []
    suspects = {r: b for r, b in behind.items() if not b.waits} or behind
    if min(beat.seconds for beat in suspects.values()) < timeout:
        return []
    return sorted(suspects)
