"""A run in a folder of its own: its config is written once, and it resumes by itself.

What was asked for stands in the config as ``asked``. The config counts: a later call
goes on as it says, also where a person changed it, and a call that asks for something
else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from .._doctor import parse_options
from ..datasets import TooManyBrokenImages
from ..datasets.load_image import broken_image
from ..engine import quiet_runner, shown
from ..reliability.preemption_hook import EXIT_NOT_SAVED, EXIT_PREEMPTED
from ..utils.atomic_file import write_atomically
from ..utils.command_line import said_again
from ..utils.config_file import read_config_file
from ..utils.progress_line import ProgressLine
from ..weights.safe_loader import install_safe_loader
from ._child import Block, child_text
from ._outputs import short

#: Where MMEngine writes all settings of the run, which it does by the config's name.
_ALL_SETTINGS = "all_settings.py"


class OwnRun:
    """The folder of a run that a verb made, or is about to make.

    Args:
        verb: ``pretrain`` or ``finetune``.
        folder: Where everything goes.
        asked: What the call asks for, by the names of its arguments; ``None`` leaves
            it to the rule, or to the run that is there.

    Raises:
        ValueError: If something else is in the folder, or a run that was asked for
            other things.
    """

    def __init__(self, verb: str, folder: Path, asked: Mapping[str, Any]) -> None:
        self.verb = verb
        self.folder = folder
        self.config = folder / f"{verb}.py"
        self.asked = dict(asked)
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

    def write_config(self, base: str, blocks: Block, tail: str = "") -> None:
        """Writes the config that this run, or `tools/train.py`, trains.

        Args:
            base: The parent.
            blocks: What differs from it.
            tail: What follows, as it is written.

        Raises:
            OSError: If it cannot be written.
        """
        text = child_text(base, dict(asked=self.asked, **blocks)) + tail
        write_atomically(self.config, lambda file: file.write(text.encode()))

    def load_config(self) -> Config:
        """The config, as it stands in the folder now."""
        cfg = read_config_file(self.config)
        # MMEngine would write all settings over the short config of the same name.
        cfg = Config(
            cfg._cfg_dict, cfg_text=cfg.text, filename=self.folder / _ALL_SETTINGS
        )
        cfg.work_dir, cfg.launcher = str(self.folder), "none"
        return cfg

    def train(self, progress: ProgressLine | None) -> Runner:
        """Trains to the end, from where the run is.

        Args:
            progress: Where it is shown, instead of in MMEngine's log.

        Returns:
            The runner, whose model is trained.

        Raises:
            SystemExit: With code 75, if a signal ended the run and it was saved.
            ValueError: If the config makes no run, or too many images are broken.
        """
        install_safe_loader()
        runner = self._build(silent=progress is not None)
        showing = shown(runner, progress) if progress else nullcontext()
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
            if progress is not None and stopped.code in (
                EXIT_PREEMPTED,
                EXIT_NOT_SAVED,
            ):
                saved = "Saved" if stopped.code == EXIT_PREEMPTED else "NOT saved"
                progress.say(f"{saved}. To go on, say the same again: {said_again()}")
            raise
        return runner

    def _build(self, silent: bool) -> Runner:
        """The runner, of what stands in the config, which a person may have changed."""
        cfg = self.load_config()
        try:
            return quiet_runner(cfg, newest=True, silent=silent)
        except (ValueError, OSError):  # they say what is wrong
            raise
        except Exception as error:  # whatever the class of a wrong option raises
            raise ValueError(
                f"{self.config} makes no run: {short(error)}. Mend it there, or begin "
                "anew in another folder (-o DIR)."
            ) from error


def check_at_least(least: int, **counts: int | None) -> None:
    """Refuses numbers that are given and too small.

    Raises:
        ValueError: If one is.
    """
    for name, count in counts.items():
        if count is not None and count < least:
            raise ValueError(f"{name}={count} must be at least {least}.")


def default_folder(verb: str, folder: Path) -> Path:
    """Where a run goes that was not told."""
    return Path("work_dirs") / f"{verb}-of-{folder.name or 'images'}"


def with_options(blocks: Block, pairs: Sequence[str]) -> Block:
    """The settings of a child, with ``KEY=VALUE`` pairs put into them.

    Raises:
        ValueError: If a pair is none, or does not fit.
    """
    options, cfg = parse_options(pairs), Config(blocks)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"cfg_options={list(pairs)} do not fit: {error}") from None
    return cfg.to_dict()


def _is_something(path: Path) -> bool:
    """Not a list of images, or half a file, of a call that was killed at once."""
    return not path.name.startswith(".") and path.suffix != ".txt"
