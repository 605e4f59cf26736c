"""Saves checkpoints such that there is always a good one on the disk."""

from __future__ import annotations

import hashlib
import inspect
import io
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..registry import register
from ..utils.atomic_file import remove_parts, write_atomically
from ..weights.files import read_torch
from ..weights.resume import resume_from_newest
from ..weights.safe_loader import install_safe_loader
from .verified_backend import VerifiedBackend
from .weights_only_codec import decode, encode

_ON_WRITE_ERROR = ("continue", "stop")
#: Options of ``CheckpointHook`` for other places than a local disk.
_REMOTE = ("backend_args", "file_client_args")
#: What ``CheckpointHook`` keeps in itself and in the message hub about its files.
_ATTRIBUTES = ("last_ckpt", "keep_ckpt_ids", "best_ckpt_path", "best_ckpt_path_dict")
_INFO = ("last_ckpt", "keep_ckpt_ids", "best_")


class _KeepingBackend(VerifiedBackend):
    """Shows ``CheckpointHook`` no file, so that it finds none to remove."""

    def isfile(self, filepath: str | Path) -> bool:
        return False

    def isdir(self, filepath: str | Path) -> bool:
        return False


@register("hook")
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook`` that cannot leave a run without a good checkpoint.

    * A file is written beside its place, flushed, read back from the disk, compared by
      its SHA-256, and only then moved there. It carries the SHA-256 in itself
      (:mod:`saim_mm.weights.checksum_trailer`);
      :func:`saim_mm.weights.verify_checkpoint` compares it later.
    * Older files go only after that, the previous best one included, and
      ``last_checkpoint`` never names a file that did not verify.
    * If the disk is full or read-only the log says so, everything good stays, and the
      run goes on or stops.
    * All that is written loads with ``weights_only=True``.
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
        parameters = inspect.signature(CheckpointHook.__init__).parameters.values()
        allowed = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
        unknown = sorted(options.keys() - (allowed - {"self", *_REMOTE}))
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: no option of SafeCheckpointHook; it has those "
                f"of CheckpointHook without {' and '.join(_REMOTE)}. Checkpoints that "
                "do not go to a local or mounted disk need CheckpointHook."
            )
        super().__init__(backend_args=dict(backend="verified"), **options)
        self.on_write_error = on_write_error

    def before_run(self, runner: Runner) -> None:
        """Makes loading safe; chooses what to go on from, before the runner would."""
        install_safe_loader()
        if runner._resume and runner._load_from is None:
            resume_from_newest(runner)

    def before_train(self, runner: Runner) -> None:
        """Prepares the folder; removes what a killed run left half-written."""
        super().before_train(runner)
        if is_main_process():
            remove_parts(Path(self.out_dir))
            remove_parts(Path(runner.work_dir))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replaces log histories and the like by plain values."""
        plain = encode(checkpoint)
        checkpoint.clear()
        checkpoint.update(plain)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restores what :meth:`before_save_checkpoint` replaced."""
        decode(checkpoint)

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> None:
        """Saves at once, in the middle of an epoch, too.

        The file counts among those that ``max_keep_ckpts`` keeps.

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
            done, goal = (
                (meta["epoch"], runner.max_epochs)
                if self.by_epoch
                else (meta["iter"], runner.max_iters)
            )
            # A file that was to be written again is there already.
            last = done == goal and self.last_ckpt != self._path(step)
            self._report(runner, error, last)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        """Lets MMEngine write the best one, and removes the previous one afterwards."""
        previous = self._best()
        backend, self.file_backend = self.file_backend, _KeepingBackend()
        try:
            with self._rolled_back_on_error(runner):
                super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            self._report(runner, error, last=False)
        finally:
            self.file_backend = backend
        self._remove(runner, previous - self._best())

    def _write(self, runner: Runner, step: int | str, meta: dict[str, Any]) -> None:
        """Writes one file, then removes those that it makes superfluous."""
        with self._rolled_back_on_error(runner):
            outdated = self._register(runner, step)
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
        self._remove(runner, {self._path(other) for other in outdated})

    def _register(self, runner: Runner, step: int | str) -> list[int | str]:
        """Counts a file among those kept, before it is written: it says so itself."""
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        if self.max_keep_ckpts <= 0:
            return []
        kept = [other for other in self.keep_ckpt_ids if other != step] + [step]
        self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        # With the outdated ones: a run that is killed before it removed them does so
        # when it resumes.
        runner.message_hub.update_info("keep_ckpt_ids", kept)
        return kept[: -self.max_keep_ckpts]

    @master_only
    def _point_to_last(self, runner: Runner) -> None:
        text = str(self.last_ckpt).encode()
        pointer = Path(runner.work_dir) / "last_checkpoint"
        write_atomically(pointer, lambda file: file.write(text))

    @master_only
    def _remove(self, runner: Runner, paths: set[str]) -> None:
        for path in paths:
            try:
                Path(path).unlink(missing_ok=True)
            except OSError as error:
                runner.logger.warning(f"{path} could not be removed: {error}")

    def _report(self, runner: Runner, error: OSError, last: bool) -> None:
        """Says that a file was not written; stops if it must.

        Raises:
            OSError: The same error, if the run is to stop.
        """
        stop = self.on_write_error == "stop" or last
        folder = Path(self.out_dir)
        free = f"{shutil.disk_usage(folder).free >> 20} MiB" if folder.is_dir() else "?"
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
        """The best files, by whatever metrics."""
        one = getattr(self, "best_ckpt_path", None)
        many = getattr(self, "best_ckpt_path_dict", {})
        return {path for path in (one, *many.values()) if path}

    @contextmanager
    def _rolled_back_on_error(self, runner: Runner) -> Iterator[None]:
        """Forgets a file that could not be written: what is known is as before."""
        own = {name: getattr(self, name, None) for name in _ATTRIBUTES}
        own["best_ckpt_path_dict"] = dict(own["best_ckpt_path_dict"] or {})
        hub = runner.message_hub
        info = {k: v for k, v in hub.runtime_info.items() if k.startswith(_INFO)}
        try:
            yield
        except OSError:
            for name, value in own.items():
                if hasattr(self, name):
                    setattr(self, name, value)
            for name in [k for k in hub.runtime_info if k.startswith(_INFO)]:
                del hub.runtime_info[name]
            for name, value in info.items():
                hub.update_info(name, value)
            raise
