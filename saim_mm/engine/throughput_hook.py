"""How fast training goes: images per second, model FLOPs utilisation, waiting share."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..evaluation.flops import known_peak_tflops, saim_flops
from ..models import SAIM
from ..registry import register
from ..utils.model_state import unwrap_model


@register("hook")
class ThroughputHook(Hook):
    """Logs the speed of any training run, whatever the model.

    To the log, ``scalars.json`` and TensorBoard it adds, over the last iterations:

    * ``images_per_s``: images per second, all processes together.
    * ``mfu``: model FLOPs utilisation, that is the operations that a step of the model
      needs (:func:`saim_mm.evaluation.flops.saim_flops`) over what the GPU could have
      done meanwhile, in [0, 1]. For SAIM models only, and only where the peak is known.
    * ``data_share``: share of the time spent waiting for the loader, in [0, 1].

    A log line tells of the iterations before its own, as the logger comes first.
    Validation between iterations is left out; checkpoints and other hooks count.

    It reads the host's clock and never waits for the device. Where nothing else does in
    a step either, the host runs ahead, and ``data_share`` is an upper bound of what the
    device lost.

    Args:
        window: Number of iterations that are averaged.
        peak_tflops: Peak of one GPU in TFLOP/s, for the type that is trained in. By
            default that of dense 16-bit products, for GPUs that are known by name.

    Raises:
        ValueError: If the window or the peak is not positive.
    """

    # After all others, so that their time is not taken for the loader's.
    priority = "LOWEST"

    def __init__(self, window: int = 100, peak_tflops: float | None = None) -> None:
        if not isinstance(window, int) or window < 1:
            raise ValueError(
                f"window={window!r} must be a positive number of iterations, such as "
                "100"
            )
        if peak_tflops is not None and not peak_tflops > 0:
            raise ValueError(
                f"peak_tflops={peak_tflops!r} must be positive, such as 989 for an "
                "H100 in bfloat16; leave it out if it is unknown."
            )
        self.peak_tflops = peak_tflops
        #: Images, seconds and those of them that were waited, in this process.
        self._iterations: deque[tuple[int, float, float]] = deque(maxlen=window)
        self._flops_per_image = 0
        self._peak_flops: float | None = None

    def before_train(self, runner: Runner) -> None:
        """Finds out what a step costs and what the device can do."""
        model = unwrap_model(runner.model)
        self._iterations.clear()
        self._peak_flops = None
        peak = self.peak_tflops
        if peak is None and torch.cuda.is_available():
            peak = known_peak_tflops(torch.cuda.get_device_name())
        if peak is None or not isinstance(model, SAIM):
            return
        self._flops_per_image = saim_flops(model).step
        self._peak_flops = peak * 1e12
        runner.logger.info(
            f"mfu: {self._flops_per_image / 1e9:.1f} GFLOP per image and step, of "
            f"{peak:g} TFLOP/s per process."
        )

    def before_train_epoch(self, runner: Runner) -> None:
        """Starts to wait for a batch, also after a validation between iterations."""
        self._since = perf_counter()

    after_val = before_train_epoch

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Notes how long the batch took to come."""
        self._waited = perf_counter() - self._since

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, *_: Any, **__: Any
    ) -> None:
        """Hands the figures to the logger, and waits for the next batch."""
        now = perf_counter()
        images = _count_images(data_batch)
        self._iterations.append((images, now - self._since, self._waited))
        # Not resumed: another machine's speed means nothing here.
        runner.message_hub.update_scalars(self._figures(), resumed=False)
        self._since = perf_counter()

    def _figures(self) -> dict[str, float]:
        images, seconds, waited = map(sum, zip(*self._iterations, strict=True))
        if not seconds:
            return {}
        figures = {"train/data_share": waited / seconds}
        if images:
            figures["train/images_per_s"] = images * get_world_size() / seconds
        if images and self._peak_flops:
            flops = images * self._flops_per_image
            figures["train/mfu"] = flops / seconds / self._peak_flops
        return figures


def _count_images(data_batch: Any) -> int:
    """Images in a batch as OpenMMLab's loaders collate it; 0 if it has another form."""
    if not isinstance(data_batch, dict):
        return 0
    # The samples first: with several views of an image the inputs are one per view.
    for part in ("data_samples", "inputs"):
        images = data_batch.get(part)
        if isinstance(images, (list, tuple, torch.Tensor)):
            return len(images)
    return 0
