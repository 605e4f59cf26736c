"""What hooks that look at the features of a run's encoder have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..evaluation import FeatureExtractor
from ..utils.model_state import random_state_kept, unwrap_model


def extractor_of(runner: Runner, **options: Any) -> FeatureExtractor:
    """Features of the model that a run trains, sharded or not, without its masks.

    All processes of the run must use it together; the options are the extractor's.
    """
    model = unwrap_model(runner.model)
    given = model.data_preprocessor
    return FeatureExtractor(model.backbone, given, model=model, **options)


class FeatureHook(Hook):
    """Evaluates every few epochs or iterations, and always at the end.

    The random streams are put back, so that the training goes on as without it. The
    options are those of :class:`ProbeHook`.
    """

    priority = "LOW"

    def __init__(
        self,
        interval: int,
        by_epoch: bool,
        batch_size: int = 128,
        num_workers: int = 4,
    ) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(
                f"interval={interval!r} must be a positive number of epochs (or, with "
                "by_epoch=False, of iterations), such as 5"
            )
        self.interval = interval
        self.by_epoch = by_epoch
        self._loading: dict[str, Any] = dict(
            batch_size=batch_size, num_workers=num_workers
        )

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Evaluates, if the interval counts iterations."""
        if not self.by_epoch and (
            self.every_n_train_iters(runner, self.interval)
            or self.is_last_train_iter(runner)
        ):
            with random_state_kept():
                self._evaluate(runner, step=runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Evaluates, if the interval counts epochs."""
        if self.by_epoch and (
            self.every_n_epochs(runner, self.interval)
            or self.is_last_train_epoch(runner)
        ):
            with random_state_kept():
                self._evaluate(runner, step=runner.epoch + 1)

    def _evaluate(self, runner: Runner, step: int) -> None:
        raise NotImplementedError

    def _log(
        self,
        runner: Runner,
        figures: Mapping[str, float],
        step: int,
        sizes: str,
        quiet: Collection[str] = (),
    ) -> None:
        """Logs figures; those named in ``quiet`` not in words."""
        if not figures:
            return
        said = [f"{n}: {value:.2f}" for n, value in figures.items() if n not in quiet]
        unit = "epoch" if self.by_epoch else "iteration"
        runner.logger.info(f"{', '.join(said)} after {unit} {step} ({sizes})")
        for name, figure in figures.items():
            runner.message_hub.update_scalar(f"val/{name}", figure)
            runner.visualizer.add_scalar(name, figure, step=step)
