"""Keeps a list of broken images, and ends all ranks together if there are too many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets import UnlabeledImages
from ..registry import register
from ..utils.atomic_file import write_json
from .expendable import attempt
from .inner_datasets import with_inner_datasets

#: The list in the work dir, and the same one in a checkpoint.
QUARANTINE_FILE = "broken_images.json"
STATE_KEY = "broken_images"


@register("hook")
class BrokenImageHook(Hook):
    """Reports broken images of :class:`UnlabeledImages`; ignores other datasets.

    At every check the ranks exchange what their workers found, so that all of them
    replace the same images, and end at the same iteration with the same error when
    more are broken than ``max_broken_share`` allows. A check costs one all-reduce of
    one byte per image, 1.3 MB for ImageNet.

    The list is ``broken_images.json`` in the work dir. A resumed run replaces these
    images from its first iteration on, even one that would load now. If they are too
    many, those that load now are used again; if too many are left the run ends.

    Args:
        interval: Training iterations between checks; each epoch ends with one too.

    Raises:
        ValueError: If ``interval`` is not a positive integer.
    """

    priority = "NORMAL"

    def __init__(self, interval: int = 500) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(
                f"interval={interval!r} must be a positive number of iterations, "
                "such as 500"
            )
        self.interval = interval
        #: Index to reason, of each dataset in the order of the data.
        self._named: dict[UnlabeledImages, dict[int, str]] = {}
        self._loaded: list[dict[str, Any]] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keeps the list of the run that may be resumed."""
        self._loaded = checkpoint.get(STATE_KEY, [])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the list."""
        checkpoint[STATE_KEY] = self._entries()

    def before_train(self, runner: Runner) -> None:
        """Looks up the datasets to watch, and what a resumed run knew of them."""
        inner = with_inner_datasets(runner.train_dataloader.dataset)
        # A dataset that is concatenated with itself is reported once.
        self._named = {d: {} for d in inner if isinstance(d, UnlabeledImages)}
        if runner.iter:
            self._restore(runner)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Checks every ``interval`` iterations."""
        if self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Checks what is left of the epoch."""
        self._check(runner)

    def after_train(self, runner: Runner) -> None:
        """Logs the total."""
        if self._named and is_main_process():
            runner.logger.info(
                f"broken images: {self._count()} of {sum(map(len, self._named))}, each "
                "replaced by the next one that loads"
            )

    def _check(self, runner: Runner) -> None:
        for dataset, named in self._named.items():
            new = [idx for idx in _agree_on_broken(dataset) if idx not in named]
            if not new:
                continue
            for idx in new:
                named[idx] = dataset.broken_reason(idx) if is_main_process() else ""
                if is_main_process():
                    # Formatted here: mmengine's logger drops a warning whose format
                    # string it has seen before, whatever the arguments.
                    runner.logger.warning(
                        f"broken image {len(named)} of at most {dataset.max_broken}: "
                        f"{_path(dataset, idx)!r}: {named[idx]}"
                    )
            self._write(runner)
            dataset.check_broken_share(
                len(named), last=dataset.describe_broken(new[-1])
            )

    def _entries(self) -> list[dict[str, Any]]:
        """The list as plain values, in the order of the data."""
        return [
            dict(dataset=number, index=idx, path=_path(dataset, idx), reason=named[idx])
            for number, (dataset, named) in enumerate(self._named.items())
            for idx in sorted(named)
        ]

    def _count(self) -> int:
        return sum(map(len, self._named.values()))

    def _write(self, runner: Runner) -> None:
        if not is_main_process():
            return
        path = Path(runner.work_dir, QUARANTINE_FILE)
        attempt(runner.logger, path, write_json, path, self._entries(), indent=1)

    def _restore(self, runner: Runner) -> None:
        """Marks what the checkpoint lists, and the file, which may be newer."""
        listed = [*self._loaded, *_read_list(runner)]
        entries = {(entry["dataset"], entry["index"]): entry for entry in listed}
        datasets = dict(enumerate(self._named))
        for (number, idx), entry in entries.items():
            dataset = datasets.get(number)
            if (
                dataset is None
                or idx >= len(dataset)
                or _path(dataset, idx) != entry["path"]
            ):
                runner.logger.warning(
                    f"{entry['path']!r} was broken, and is no longer image {idx} of "
                    "the data"
                )
                continue
            dataset.mark_broken([idx])
            self._named[dataset][idx] = entry["reason"]
        for dataset, named in self._named.items():
            # Ranks that do not see the work dir hear of it from the first one.
            for idx in _agree_on_broken(dataset):
                named.setdefault(idx, "")
        if entries and is_main_process():
            runner.logger.info(f"broken images: {self._count()} known from before")
        for dataset, named in self._named.items():
            if len(named) <= dataset.max_broken:
                continue
            # The run ended here; what was mended since is used again.
            mended = [idx for idx in named if dataset.loads(idx)]
            dataset.broken[mended] = 0
            for idx in mended:
                del named[idx]
            self._write(runner)
            if mended and is_main_process():
                runner.logger.info(f"broken images: {len(mended)} of them load now")
            last = dataset.describe_broken(max(named)) if named else ""
            dataset.check_broken_share(len(named), last)


def _read_list(runner: Runner) -> list[dict[str, Any]]:
    path = Path(runner.work_dir, QUARANTINE_FILE)
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is no list of broken images ({error}); mend or remove it"
        ) from error


def _path(dataset: UnlabeledImages, idx: int) -> str:
    return dataset.get_data_info(idx)["img_path"]


def _agree_on_broken(dataset: UnlabeledImages) -> list[int]:
    """Returns, and marks, the images that are broken according to any rank."""
    # A copy, as workers may write into the original meanwhile. What they add is left
    # to the next check: all ranks must judge by the same images.
    broken = dataset.broken.clone()
    all_reduce(broken, op="max")
    indices = broken.nonzero().flatten().tolist()
    dataset.mark_broken(indices)
    return indices
