"""Ends a run in good order when the machine is wanted back."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from traceback import walk_stack
from types import FrameType
from typing import Any, ClassVar

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import distributed

from ..registry import register
from ..utils.worker_signals import SIGNALS, end_workers, shield_loop
from .checkpoint_hook import SafeCheckpointHook

#: Exit codes: ended by a signal, and everything is saved (EX_TEMPFAIL of sysexits.h:
#: run the same command again); or it could not be saved (EX_IOERR).
EXIT_PREEMPTED, EXIT_NOT_SAVED = 75, 74
#: Seconds within which a signal counts as the same one: a process group and torchrun
#: may each hand it on.
_SAME = 2.0
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


class _Agreement:
    """Tells all processes, at the same step, that one of them has to stop.

    The answer to a step's question is read at the next step, when it is long there, and
    goes over the CPU; so neither the host nor the GPU waits.
    """

    def __init__(self) -> None:
        shared = get_world_size() > 1
        self.group = distributed.new_group(backend="gloo") if shared else None
        self._flag = torch.zeros(1, dtype=torch.uint8)
        self._question: Any = None

    def reached(self, wanted: bool) -> bool:
        """Whether to stop; all processes have to ask equally often."""
        if self.group is None:
            return wanted
        if self.finish():
            return True
        self._flag.fill_(wanted)
        self._question = distributed.all_reduce(
            self._flag, distributed.ReduceOp.MAX, self.group, async_op=True
        )
        return False

    def finish(self) -> bool:
        """The answer to the last question."""
        if self._question is None:
            return False
        self._question.wait()
        self._question = None
        return bool(self._flag.item())

    def are_equal(self, number: int) -> bool:
        """Whether all processes have the same number."""
        if self.group is None:
            return True
        extremes = torch.tensor([number, -number])
        distributed.all_reduce(extremes, distributed.ReduceOp.MAX, self.group)
        return bool(extremes.sum() == 0)


@register("hook")
class PreemptionHook(Hook):
    """Saves and ends the run on SIGTERM, SIGINT (Ctrl-C), SIGHUP or SIGUSR1.

    The step under way is finished, with all iterations that it accumulates; then the
    run is saved by :class:`SafeCheckpointHook` and ends with exit code 75, or 74 if it
    could not be saved. In several processes it is enough that one gets the signal: all
    stop at the same step, one later. During validation the run ends too, and that
    validation is not repeated. A second Ctrl-C, or a second SIGTERM after two seconds,
    ends the run at once.

    Where torchrun is killed its processes end as by a signal (on Linux). A SIGHUP that
    is ignored, as under ``nohup``, stays ignored.

    Data workers leave these signals to their parent, and do not outlive it.

    Raises:
        ValueError: When training begins with another ``CheckpointHook``.
    """

    # After all that may write a checkpoint of its own at this step.
    priority = "LOWEST"

    def __init__(self) -> None:
        self._saver: SafeCheckpointHook | None = None
        self._received: signal.Signals | None = None
        self._interrupts = 0
        self._process = 0
        self._in_step = False
        self._previous: dict[signal.Signals, Any] = {}

    def before_run(self, runner: Runner) -> None:
        """Makes the data workers leave signals to this process."""
        follow_torchrun()
        if not isinstance(runner._train_loop, BaseLoop):  # a test
            return
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        savers = [hook for hook in hooks if isinstance(hook, SafeCheckpointHook)]
        if hooks and not savers:
            raise ValueError(
                "PreemptionHook saves through SafeCheckpointHook, and this run has "
                f"{type(hooks[0]).__name__}; set default_hooks.checkpoint.type="
                "'SafeCheckpointHook'."
            )
        if savers:  # else the run is not to be saved at all
            self._saver = savers[0]
            shield_loop(runner.train_loop)
            shield_loop(runner.val_loop)

    def before_train(self, runner: Runner) -> None:
        """Begins to listen; until here there is nothing to save."""
        if self._saver is None:
            return
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning("not in the main thread: signals end the run at once")
            self._saver = None
            return
        self._agreement = _Agreement()
        self._received, self._interrupts = None, 0
        self._process = os.getpid()
        self._run = type(runner.train_loop).run.__code__
        heard = set(SIGNALS)
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
            heard.remove(signal.SIGHUP)
        self._previous = {s: signal.signal(s, self._receive) for s in heard}
        self._second_sigterm = SecondSigterm()

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Ends the run if it has to, after the optimiser's step."""
        if self._saver is not None and _step_is_complete(runner):
            self._stop_if_agreed(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        """Finds out whether the processes validate in step."""
        if self._previous:
            length = len(runner.val_loop.dataloader)
            self._in_step = self._agreement.are_equal(length)

    def after_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Ends the run during a validation, too, where processes validate in step."""
        if self._previous and self._in_step and _step_is_complete(runner):
            self._stop_if_agreed(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Lets signals end the process again."""
        if self._previous:
            self._agreement.finish()
            self._stop_listening()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal. Logging could meet itself here, so it writes plainly."""
        # A child that was forked with this handler, or training that ended in an error.
        if os.getpid() != self._process or not self._is_training(frame):
            self._stop_listening()
            os.kill(os.getpid(), number)
            return
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            self._stop_listening()
            end_workers()
            raise KeyboardInterrupt
        if self._received is None and is_main_process():
            name = signal.Signals(number).name
            _say(f"\n{name}: finishing the step, then saving.\n")
        self._received = signal.Signals(number)

    def _is_training(self, frame: FrameType | None) -> bool:
        return frame is not None and any(
            outer.f_code is self._run for outer, _ in walk_stack(frame)
        )

    def _stop_listening(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous and os.getpid() == self._process:
            self._second_sigterm.close()
        self._previous = {}

    def _stop_if_agreed(self, runner: Runner, iteration: int) -> None:
        if not self._agreement.reached(self._received is not None):
            return
        assert self._saver is not None
        saved = True
        try:
            self._saver.save_now(runner, runner.epoch, iteration)
        except OSError as error:
            runner.logger.error(f"the run could not be saved: {error}")
            saved = False
        reason = self._received.name if self._received else "a signal to another rank"
        last = self._saver.last_ckpt
        runner.logger.info(
            f"{reason}: saved {last}; the same command with --resume goes on"
            if saved
            else f"{reason}: NOT saved; the last good checkpoint is {last}"
        )
        runner.call_hook("after_run")
        for number in SIGNALS:  # while the process winds up
            signal.signal(number, signal.SIG_IGN)
        end_workers()
        sys.exit(EXIT_PREEMPTED if saved else EXIT_NOT_SAVED)


def _say(text: str) -> None:
    """Writes to a terminal, which may be gone: then whatever is said goes nowhere."""
    try:
        os.write(2, text.encode())
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)


def _step_is_complete(runner: Runner) -> bool:
    wrapper = runner.optim_wrapper
    return not isinstance(wrapper, OptimWrapper) or wrapper.should_update()


def follow_torchrun() -> None:
    """Has Linux send SIGUSR1 when torchrun is killed: its processes would train on.

    Neither SIGTERM, of which a second one ends a process, nor SIGHUP, which ``nohup``
    ignores.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)


class SecondSigterm:
    """Ends this process on a second SIGTERM, also where it is stuck in a read.

    Python's handlers wait until the main thread comes back from C code; the byte that
    each signal leaves in a pipe is read here, in a thread. To be made in the main one.

    A process has one such pipe: a new watch takes the place of one that a training
    which ended in an error left behind.
    """

    _current: ClassVar[SecondSigterm | None] = None

    def __init__(self) -> None:
        if SecondSigterm._current is not None:
            SecondSigterm._current.close()
        SecondSigterm._current = self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._leave)
        threading.Thread(target=self._watch, name="second SIGTERM", daemon=True).start()

    def close(self) -> None:
        """Ceases to watch, if it has not yet."""
        if self._writer >= 0:
            self._leave()
            os.close(self._writer)
            self._writer = -1

    def _leave(self) -> None:
        """Takes this process off the pipe: a child's signals are not its parent's."""
        current = signal.set_wakeup_fd(-1)
        is_own = current == self._writer >= 0
        signal.set_wakeup_fd(self._before if is_own else current)

    def _watch(self) -> None:
        first = None
        while byte := os.read(self._reader, 1):
            if byte[0] == signal.SIGTERM:
                first = first or time.monotonic()
                if time.monotonic() - first > _SAME:
                    os._exit(128 + signal.SIGTERM)
        os.close(self._reader)
