"""Saves checkpoints such that there is always a good one on the disk."""

from __future__ import annotations

import hashlib
import inspect
import io
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from string import Formatter
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import BaseLoop, Runner

from ..registry import register
from ..utils.atomic_file import remove_parts, write_atomically
from ..weights.files import read_torch
from ..weights.resume import GUARD_KEY, resume_from_newest, why_not_finite
from ..weights.safe_loader import install_safe_loader
from ..weights.whole_model import check_backbone
from .expendable import attempt, let_logs_fail
from .verified_backend import VerifiedBackend
from .weights_only_codec import decode, encode

_ON_WRITE_ERROR = ("continue", "stop")
#: Options of ``CheckpointHook`` for other places than a local disk.
_REMOTE = ("backend_args", "file_client_args")
_NOT_TAKEN = {*_REMOTE, "kwargs"}  # the latter would take misspelt ones
#: What ``CheckpointHook`` keeps about its files.
_ATTRIBUTES = ("last_ckpt", "keep_ckpt_ids", "best_ckpt_path", "best_ckpt_path_dict")
#: What stands for the braces of ``filename_tmpl``: epochs or iterations, or both.
_STEP = r"\d+(?:_iter_\d+)?"


@register("hook")
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook`` that cannot leave a run without a good checkpoint.

    * A file is written beside its place, flushed, read back from the disk, compared by
      its SHA-256, which it carries in itself, and only then moved there.
    * Older files go only after that, the previous best one included, and
      ``last_checkpoint`` never names a file that did not verify. While
      :class:`FiniteGuardHook` leaves steps out, or a weight is not finite, none goes.
    * Nothing is removed but regular files of ``filename_tmpl`` in the run's own folder,
      whatever a checkpoint says.
    * If the disk is full or read-only the log says so, everything good stays, and the
      run goes on or stops. Logs, scalars, pictures and ``last_checkpoint`` may fail.
    * All that is written loads with ``weights_only=True``.
    * A checkpoint that is loaded for training holds the whole backbone, or the run
      stops (:func:`saim_mm.weights.whole_model.check_backbone`).
    * ``resume=True`` without ``load_from`` goes on from the newest file that verifies,
      and the log names those that do not.

    Args:
        on_write_error: What to do if a file cannot be written: ``'continue'`` and try
            again when the next one is due, or ``'stop'``. The last file of a run must
            be written in either case.
        **options: Those of ``CheckpointHook``, except ``backend_args`` and
            ``file_client_args``: the disk must be local or mounted.

    Raises:
        ValueError: If an option is unknown or has no such value.
    """

    file_backend: LocalBackend
    keep_ckpt_ids: deque[int | str]

    def __init__(self, *, on_write_error: str = "continue", **options: Any) -> None:
        if on_write_error not in _ON_WRITE_ERROR:
            raise ValueError(
                f"on_write_error={on_write_error!r} must be one of {_ON_WRITE_ERROR}"
            )
        allowed = inspect.signature(CheckpointHook).parameters.keys() - _NOT_TAKEN
        if unknown := sorted(options.keys() - allowed):
            raise ValueError(
                f"{', '.join(unknown)}: no option of SafeCheckpointHook; it has those "
                f"of CheckpointHook without {' and '.join(_REMOTE)}. Checkpoints that "
                "do not go to a local or mounted disk need CheckpointHook."
            )
        super().__init__(backend_args=dict(backend="verified"), **options)
        self.on_write_error = on_write_error
        self._is_good = True  # what was written or loaded last
        self._outdated: list[int | str] = []

    def before_run(self, runner: Runner) -> None:
        """Makes loading safe; chooses what to go on from, before the runner would."""
        install_safe_loader()
        let_logs_fail(runner)
        if runner._resume and runner._load_from is None:
            resume_from_newest(runner)

    def before_train(self, runner: Runner) -> None:
        """Prepares the folder; removes what a killed run left half-written."""
        known = runner.message_hub.get_info("keep_ckpt_ids")
        known = known if isinstance(known, list) else []
        steps = [s for s in known if re.fullmatch(_STEP, str(s))]
        runner.message_hub.update_info("keep_ckpt_ids", list(steps))
        super().before_train(runner)
        runner.save_checkpoint = _failing_on_all(runner.save_checkpoint)
        self._find_best_here(runner)
        if self.max_keep_ckpts > 0:
            self._remove_outdated(runner, steps[: -self.max_keep_ckpts])
        if is_main_process():
            remove_parts(Path(self.out_dir))
            remove_parts(Path(runner.work_dir))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replaces log histories and the like by plain values."""
        self._is_good = _is_good(runner, checkpoint)
        plain = encode(checkpoint)
        checkpoint.clear()
        checkpoint.update(plain)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restores what :meth:`before_save_checkpoint` replaced.

        Raises:
            CheckpointError: If a run would train a part of the backbone from scratch.
        """
        if isinstance(runner._train_loop, BaseLoop):  # it is to be trained
            check_backbone(runner.model, checkpoint, str(runner._load_from))
        self._is_good = _is_good(runner, checkpoint)
        decode(checkpoint)

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> None:
        """Saves at once; the file counts among those that ``max_keep_ckpts`` keeps.

        Args:
            runner: The runner.
            epoch: Epochs that have been finished.
            iteration: Iterations that have been finished.

        Raises:
            OSError: If it could not be written, whatever ``on_write_error`` says.
        """
        step = f"{epoch}_iter_{iteration}" if self.by_epoch else iteration
        if self.last_ckpt != self._path(step):
            self._write(runner, step, dict(epoch=epoch, iter=iteration))

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int | str, meta: dict[str, Any]
    ) -> None:
        """Overrides MMEngine's, which removes before it writes."""
        try:
            self._write(runner, step, meta)
        except OSError as error:
            if self.by_epoch:
                last = meta["epoch"] == runner.max_epochs
            else:
                last = meta["iter"] == runner.max_iters
            # A file that was to be written again is there already.
            self._report(runner, error, last and self.last_ckpt != self._path(step))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Lets MMEngine write the best one, and removes the previous one afterwards."""
        previous = self._best()
        try:
            with self._rolled_back_on_error(runner):
                super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            self._report(runner, error, last=False)
        if self._is_good:
            self._remove(runner, previous - self._best())

    def _write(self, runner: Runner, step: int | str, meta: dict[str, Any]) -> None:
        """Writes one file, then removes those that it makes superfluous."""
        outdated: list[int | str] = []
        with self._rolled_back_on_error(runner):
            # Counted among those kept before it is written: it says so itself.
            self.last_ckpt = self._path(step)
            known: dict[str, Any] = dict(last_ckpt=self.last_ckpt)
            if self.max_keep_ckpts > 0:
                kept = [other for other in self.keep_ckpt_ids if other != step] + [step]
                self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
                outdated = kept[: -self.max_keep_ckpts]
                # With the outdated ones: a run that is killed before it removed them
                # does so when it resumes.
                known["keep_ckpt_ids"] = [*self._outdated, *kept]
            runner.message_hub.update_info_dict(known)
            runner.save_checkpoint(
                self.out_dir,
                Path(self.last_ckpt).name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
            )
        self._point_to_last(runner)
        self._remove_outdated(runner, outdated)

    def _remove_outdated(self, runner: Runner, steps: list[int | str]) -> None:
        """Removes files, or waits until there is a good one in their place."""
        self._outdated += steps
        if self._is_good:
            self._remove(runner, {self._path(step) for step in self._outdated})
            self._outdated = []

    @master_only
    def _point_to_last(self, runner: Runner) -> None:
        text = str(self.last_ckpt).encode()
        note = Path(runner.work_dir) / "last_checkpoint"
        attempt(
            runner.logger, note, write_atomically, note, lambda file: file.write(text)
        )

    @master_only
    def _remove(self, runner: Runner, paths: set[str]) -> None:
        """Removes files of this run; the only place where a file is removed."""
        for path in map(Path, paths):
            try:
                if self._is_own(path):
                    path.unlink()
            except OSError as error:
                runner.logger.warning(f"{path} could not be removed: {error}")

    def _is_own(self, path: Path) -> bool:
        """Whether this hook writes such a file: a checkpoint may name a stranger's."""
        parts = Formatter().parse(self.filename_tmpl)
        name = "".join(
            re.escape(text) + (_STEP if field is not None else "")
            for text, field, _, _ in parts
        )
        return (
            path.parent == Path(self.out_dir)
            and re.fullmatch(rf"(?:best_.+_)?{name}", path.name) is not None
            and path.is_file()
            and not path.is_symlink()
        )

    def _find_best_here(self, runner: Runner) -> None:
        """Takes the best files for those of these names in this run's own folder."""
        info = runner.message_hub.runtime_info
        for name in [n for n in info if n.startswith("best_ckpt")]:
            own = Path(self.out_dir) / Path(str(info[name])).name
            runner.message_hub.update_info(
                name, str(own) if self._is_own(own) else None
            )
        self.best_ckpt_path = info.get("best_ckpt")
        many = getattr(self, "best_ckpt_path_dict", {})
        self.best_ckpt_path_dict = {n: info.get(f"best_ckpt_{n}") for n in many}

    def _report(self, runner: Runner, error: OSError, last: bool) -> None:
        """Says that a file was not written, and raises the error if it must stop."""
        stop = self.on_write_error == "stop" or last
        folder = Path(self.out_dir)
        free = f"{shutil.disk_usage(folder).free >> 20} MiB" if folder.is_dir() else "?"
        if is_main_process():
            runner.logger.error(
                f"checkpoint not written: {error} (free in {folder}: {free}). The last "
                f"good one is {self.last_ckpt}. "
                + ("The run stops." if stop else "The run goes on and will try again.")
            )
        if stop:
            raise error

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Writes the published part of a file, named by its checksum."""
        content = read_torch(Path(ckpt_path), known=())
        published = {k: content[k] for k in content if k in (self.published_keys or ())}
        buffer = io.BytesIO()
        torch.save(published, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()[:8]
        path = Path(ckpt_path).with_name(f"{Path(ckpt_path).stem}-{digest}.pth")
        VerifiedBackend().put(buffer, path)
        runner.logger.info(
            f"{ckpt_path} is published as {path}, without "
            f"{sorted(content.keys() - published.keys())}"
        )

    def _path(self, step: int | str) -> str:
        return self.file_backend.join_path(
            self.out_dir, self.filename_tmpl.format(step)
        )

    def _best(self) -> set[str]:
        paths = (self.best_ckpt_path, *self.best_ckpt_path_dict.values())
        return {path for path in paths if path}

    @contextmanager
    def _rolled_back_on_error(self, runner: Runner) -> Iterator[None]:
        """Forgets a file that could not be written: what is known is as before."""
        info = runner.message_hub.runtime_info
        own = {k: copy(v) for k, v in self.__dict__.items() if k in _ATTRIBUTES}
        known = dict(info)
        try:
            yield
        except OSError:
            self.__dict__.update(own)
            info.clear()
            info.update(known)
            raise


def _is_good(runner: Runner, checkpoint: dict[str, Any]) -> bool:
    """Whether its weights are finite, and no steps were being left out."""
    left_out = checkpoint.get(GUARD_KEY, {}).get("in_a_row", 0)
    return not left_out and why_not_finite(checkpoint, runner.model) is None


def _failing_on_all(save: Callable[..., None]) -> Callable[..., None]:
    """Makes what the first process's save raises be raised by all.

    It alone writes. The others must not take for saved what is not, nor go on to a
    collective where it will not come.
    """

    def told(*args: Any, **options: Any) -> None:
        outcome: list[Exception | None] = [None]
        try:
            save(*args, **options)
        except Exception as error:
            if not is_main_process():
                raise
            outcome[0] = error
        broadcast_object_list(outcome)
        if outcome[0] is not None:
            raise outcome[0]

    return told
