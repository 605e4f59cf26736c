"""A run in a folder of its own: its config is written once, and it resumes by itself.

What was asked for stands in the config as ``asked``. The config counts: a later call
goes on as it says, also where a person changed it, and a call that asks for something
else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from .._doctor import parse_options
from ..datasets import TooManyBrokenImages
from ..datasets.load_image import broken_image
from ..engine import quiet_runner, shown
from ..reliability.preemption_hook import EXIT_NOT_SAVED, EXIT_PREEMPTED
from ..utils.command_line import counted, said_again
from ..utils.config_file import read_config_file
from ..utils.progress_line import ProgressLine
from ..weights.safe_loader import install_safe_loader
from ._child import Block, child_text
from ._machine import Machine
from ._outputs import short
from ._rule import FinetunePlan, PretrainPlan, Steps
from ._trial import fit_to_memory, saving_interval

#: Where MMEngine writes all settings of the run, which it does by the config's name.
_ALL_SETTINGS = "all_settings.py"

Plan = TypeVar("Plan", PretrainPlan, FinetunePlan)
#: What may be asked for instead of what the rule chooses.
_INSTEAD = ("epochs", "batch_size", "workers")


class OwnRun:
    """The folder ``out`` of a run that a verb made, or is about to make.

    ``asked`` is what the call asks for, by the names of its arguments; ``None`` leaves
    it to the rule, or to the run that is there.

    Raises:
        ValueError: If a number is too small, something else is in the folder, or a run
            that was asked for other things.
    """

    def __init__(
        self, verb: str, images: Path, out: str | Path | None, asked: Mapping[str, Any]
    ) -> None:
        for name, least in dict(epochs=1, batch_size=1, workers=0, seed=0).items():
            if asked[name] is not None and asked[name] < least:
                raise ValueError(f"{name}={asked[name]} must be at least {least}.")
        default = Path("work_dirs") / f"{verb}-of-{images.name or 'images'}"
        self.verb = verb
        self.folder = folder = default if out is None else Path(out)
        self.config = folder / f"{verb}.py"
        self.asked = dict(asked)
        self.instead = {name: asked[name] for name in _INSTEAD}
        self.begun = self.config.is_file()
        if self.begun:
            self._refuse_other()
        elif folder.exists() and (
            not folder.is_dir() or any(map(_is_something, folder.iterdir()))
        ):
            raise ValueError(
                f"{folder}: holds something else than a run of `saim-mm {verb}`; give "
                "another folder (-o DIR)."
            )

    def _refuse_other(self) -> None:
        had = read_config_file(self.config).get("asked")
        if had is None:
            raise ValueError(
                f"{self.config}: does not say what it was asked for (asked=...), so it "
                f"was not written by `saim-mm {self.verb}`; give another folder."
            )
        changed = [
            f"{name}={value!r} (was {had.get(name)!r})"
            for name, value in self.asked.items()
            if value not in (None, []) and value != had.get(name)
        ]
        if changed:
            raise ValueError(
                f"{self.folder} holds a run that was asked for otherwise: "
                f"{', '.join(changed)}. Leave it as it was and the run goes on; change "
                f"it in {self.config}, which counts (docs/reliable_training.md says "
                "what a resumed run may change); or give another folder (-o DIR)."
            )

    def fitted(
        self,
        base: str,
        plan: Plan,
        blocks_of: Callable[[Plan, int], Block],
        machine: Machine,
        tail: str = "",
    ) -> tuple[Plan, str, str]:
        """The plan that fits into the memory, its config, what to say of the machine.

        ``blocks_of`` a plan and the iterations between two checkpoints is what differs
        from the config ``base``; ``tail`` follows in it as it is.

        Raises:
            ValueError: If ``cfg_options`` do not fit, or nothing does.
        """

        def text_of(plan: Plan, interval: int = 1) -> str:
            pairs = self.asked["cfg_options"]
            blocks = _with_options(blocks_of(plan, interval), pairs)
            return child_text(base, dict(asked=self.asked, **blocks)) + tail

        def config_of(steps: Steps) -> Config:
            return Config.fromstring(text_of(replace(plan, steps=steps)), ".py")

        steps, seconds = fit_to_memory(config_of, plan.steps, machine.device)
        fitted = replace(plan, steps=steps)
        minutes = max(1, round(seconds * fitted.iterations / 60))
        workers, time = counted(steps.workers, "worker"), counted(minutes, "minute")
        said = f"{steps.precision}, {workers}; about {time}, from one step."
        interval = saving_interval(seconds, fitted.iterations)
        return fitted, text_of(fitted, interval), f"On {machine.device}: {said}"

    def train(self, said: Sequence[str], progress: ProgressLine | None) -> Runner:
        """Says what was chosen, and trains to the end, from where the run is.

        Returns the runner, whose model is trained. Without ``progress``, MMEngine's log
        shows how far it is.

        Raises:
            SystemExit: With code 75, if a signal ended the run and it was saved.
            ValueError: If the config makes no run, or too many images are broken.
        """
        install_safe_loader()
        runner = self._build(silent=progress is not None)
        tell = runner.logger.info if progress is None else progress.say
        hook = _BeginningHook(tell, "\n".join(said))
        runner.register_hook(hook, priority="VERY_HIGH")
        showing = nullcontext() if progress is None else shown(runner, progress)
        try:
            with showing:
                runner.train()
        except TooManyBrokenImages as error:  # of a worker: with its traceback
            told = str(error).strip().rpartition("\n")[2]
            told = told.rpartition(f"{TooManyBrokenImages.__name__}: ")[2]
            raise ValueError(
                f"{told} (train_dataloader.dataset.max_broken_share in {self.config}), "
                "and say the same again."
            ) from None
        except (RuntimeError, ValueError) as error:
            if (broken := broken_image(error)) is None:
                raise
            raise ValueError(
                f"{broken}. Mend this image and say the same again, or begin anew "
                "without it in another folder (-o DIR)."
            ) from None
        except SystemExit as stopped:
            saved = {EXIT_PREEMPTED: "Saved", EXIT_NOT_SAVED: "NOT saved"}
            if progress is not None and stopped.code in saved:
                told = saved[stopped.code]
                progress.say(f"{told}. To go on, say the same again: {said_again()}")
            raise
        return runner

    def _build(self, silent: bool) -> Runner:
        """The runner, of what stands in the config, which a person may have changed."""
        cfg = read_config_file(self.config)
        # MMEngine would write all settings over the short config of the same name.
        cfg = Config(
            cfg._cfg_dict, cfg_text=cfg.text, filename=self.folder / _ALL_SETTINGS
        )
        cfg.work_dir, cfg.launcher = str(self.folder), "none"
        try:
            return quiet_runner(cfg, newest=True, silent=silent)
        except (ValueError, OSError):  # they say what is wrong
            raise
        except Exception as error:  # whatever the class of a wrong option raises
            raise ValueError(
                f"{self.config} makes no run: {short(error)}. Mend it there, or begin "
                "anew in another folder (-o DIR)."
            ) from error


class _BeginningHook(Hook):
    """Tells what was chosen, or of a run that has nothing left to train."""

    def __init__(self, tell: Callable[[str], Any], said: str) -> None:
        self.tell, self.said = tell, said

    def before_train(self, runner: Runner) -> None:
        done = f"Finished before: all {runner.max_iters} iterations are done."
        self.tell(self.said if runner.iter < runner.max_iters else done)


def _with_options(blocks: Block, pairs: Sequence[str]) -> Block:
    """The settings of a child, with ``KEY=VALUE`` pairs put into them."""
    options, cfg = parse_options(pairs), Config(blocks)
    for key in ("train_cfg.max_iters", "train_cfg.max_epochs"):
        if isinstance(options.get(key), int) and options[key] < 1:
            raise ValueError(f"cfg_options: {key}={options[key]} must be at least 1.")
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"cfg_options={list(pairs)} do not fit: {error}") from None
    return cfg.to_dict()


def _is_something(path: Path) -> bool:
    """Not a list of images, or half a file, of a call that was killed at once."""
    return not path.name.startswith(".") and path.suffix != ".txt"
