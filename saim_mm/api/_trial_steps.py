"""One real training step, to learn what fits into the memory and how long it takes."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..utils.model_state import random_state_kept
from ..utils.quiet_log import quiet_log
from ._outputs import short
from ._rule import Steps
from ._trial import train_one_step

#: Seconds of training that a killed run may lose.
SECONDS_AT_RISK = 300
#: Images of the step where memory is no question.
_CPU_IMAGES = 8


def fit_to_memory(
    config_of: Callable[[Steps], Config], steps: Steps, side: int, device: str
) -> tuple[Steps, float]:
    """Trains one step on images of noise; halves what is computed at once till it fits.

    Args:
        config_of: The config of a run that goes by some steps.
        steps: What the rule chose.
        side: Pixels of the side of an image.
        device: Where to train.

    Returns:
        The steps that fit, and the seconds that an iteration of them takes, with all
        that only a first one has to do.

    Raises:
        ValueError: If not even one image at once fits.
    """
    while True:
        images = steps.at_once if device == "cuda" else min(steps.at_once, _CPU_IMAGES)
        try:
            with (
                quiet_log(),
                random_state_kept(),
                DefaultScope.overwrite_default_scope("mmpretrain"),
            ):
                trial = train_one_step(config_of(steps), (side, side), device, images)
            return steps, trial.seconds * steps.at_once / images
        except (TypeError, AttributeError, KeyError, AssertionError) as error:
            raise ValueError(
                "The first training step fails, which a setting of cfg_options may be "
                f"the reason of: {short(error)}"
            ) from error
        except torch.cuda.OutOfMemoryError:
            if steps.at_once % 2:
                raise ValueError(
                    f"{steps.at_once} images at once do not fit into the GPU's memory; "
                    "give a smaller model, or a batch_size that is a power of two."
                ) from None
        gc.collect()  # outside: the error's traceback held the tensors
        torch.cuda.empty_cache()
        steps = steps.halved()


def saving_interval(seconds: float, iterations: int) -> int:
    """Iterations between two checkpoints."""
    return min(max(1, round(SECONDS_AT_RISK / seconds)), iterations)
