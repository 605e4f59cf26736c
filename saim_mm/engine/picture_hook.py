"""Pictures of what the model predicts, in the log while pretraining goes on."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..models import SAIM
from ..registry import register
from ..utils.model_state import random_state_kept, unwrap_model

#: Parts of the order whose losses are logged, from its first to its last steps.
QUARTERS = ("quarter_1", "quarter_2", "quarter_3", "quarter_4")
#: Of which the mean says where a patch lies, more than what is in them.
_ENOUGH_IMAGES = 4


@register("hook")
class PictureHook(Hook):
    """Shows the same few images again and again, as the model predicts them.

    Through the runner's visualiser, and so to TensorBoard, W&B or MLflow where its
    ``vis_backends`` name them, it logs:

    * ``reconstruction``: the images, their targets, the predictions and the steps.
    * ``feature_maps``: which patches the encoder takes for alike, by colours.
    * ``loss_by_step``: a curve of the loss against the number of visible patches.
    * ``loss_by_step/quarter_1`` to ``quarter_4``: the same as four numbers, of
      the first to the last quarter of the order.

    It leaves the training as it is: with and without the hook the losses are the same,
    bit by bit. The main process draws and the others wait, so it measures its share of
    the time and leaves out pictures rather than take more than ``max_share``. What the
    first picture costs is not known before; a run that ends soon after it may have
    spent more. kNN accuracy is the business of :class:`KNNHook`.

    Args:
        interval: Iterations between pictures, if they are cheap enough.
        images: Folder of images to show; by default the first that the run, or the
            resumed run, is trained on.
        number: How many images.
        max_share: Largest share of the time since the start, in (0, 1].
        seed: Of the orders; they are the same in all pictures.

    Raises:
        ValueError: If an option is out of range; when training begins, if the model is
            no SAIM.
    """

    priority = "LOW"
    #: What :class:`ShardingHook` refuses.
    runs_model_on_rank_zero = True

    def __init__(
        self,
        interval: int = 1000,
        images: str | Path | None = None,
        number: int = 8,
        max_share: float = 0.02,
        seed: int = 0,
    ) -> None:
        for name, value in (("interval", interval), ("number", number)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"PictureHook {name}={value!r} must be 1 or more.")
        if not 0 < max_share <= 1:
            raise ValueError(
                f"PictureHook max_share={max_share!r} must be greater than 0 and at "
                "most 1; 0.02 spends at most 2 % of the time."
            )
        self.interval = interval
        self.images = images
        self.number = number
        self.max_share = max_share
        self.seed = seed

    def before_train(self, runner: Runner) -> None:
        """Finds the images, so that a wrong folder ends the run at its start."""
        model = unwrap_model(runner.model)
        if not isinstance(model, SAIM):
            raise ValueError(
                f"PictureHook shows what a SAIM predicts, and the model is a "
                f"{type(model).__name__}; take the hook out of the config."
            )
        self._start = perf_counter()
        self._spent = self._last = 0.0
        self._told = False
        self._shown: Tensor | None = None
        if self.images is not None and is_main_process():
            from ..visualization import read_images

            size, given = tuple(model.backbone.img_size), model.data_preprocessor
            with random_state_kept():
                self._shown = read_images(self.images, size, given, self.number)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Keeps images of the first batch, if no folder is given."""
        if self._shown is None and is_main_process():
            assert isinstance(data_batch, dict)  # SAIM's preprocessor takes no other
            batch = {key: value[: self.number] for key, value in data_batch.items()}
            preprocessor = unwrap_model(runner.model).data_preprocessor
            self._shown = preprocessor(batch, False)["inputs"]

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Draws, if it is time and there is time."""
        if not self.every_n_train_iters(runner, self.interval) or not is_main_process():
            return
        begin = perf_counter()
        if self._spent + self._last > self.max_share * (begin - self._start):
            if not self._told:
                runner.logger.info(
                    f"PictureHook: a picture takes {self._last:.1f} s, so there will "
                    f"be fewer than one every {self.interval} iterations; with more "
                    f"they would take over {self.max_share:.1%} of the time."
                )
            self._told = True
            return
        with random_state_kept():
            self._draw(runner)
        # On a GPU it holds a wait for the step before, which is on the safe side.
        self._last = perf_counter() - begin
        self._spent += self._last

    def _draw(self, runner: Runner) -> None:
        from ..visualization import (
            draw_position_error,
            position_errors,
            reconstruction_sheet,
        )
        from ..visualization.feature_maps import feature_picture

        model, images, step = unwrap_model(runner.model), self._shown, runner.iter + 1
        assert images is not None
        sampler = model.order_sampler
        generator = torch.Generator(images.device).manual_seed(self.seed)
        order = sampler.draw(len(images), images.device, generator)
        generator.manual_seed(self.seed)  # the same orders for the curve
        errors = position_errors(model, [images], generator)
        many = [images] if len(images) >= _ENOUGH_IMAGES else []
        note = "The mean of the images at each place is subtracted." if many else ""
        show = runner.visualizer.add_image
        show("reconstruction", reconstruction_sheet(model, images, order), step=step)
        features = feature_picture(model, images, many=many, note=note)
        show("feature_maps", features, step=step)
        curve = draw_position_error(errors, sampler, model.head.loss_kind)
        show("loss_by_step", curve, step=step)
        parts = np.array_split(errors.mean(dim=0).numpy(), len(QUARTERS))
        scalars = {
            f"loss_by_step/{name}": float(part.mean())
            for name, part in zip(QUARTERS, parts, strict=True)
            if len(part)
        }
        runner.visualizer.add_scalars(scalars, step=step)
