"""What DINO does around each step of its optimiser."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.optim import Optimizer

from ..models.baselines.dino import DINOPretraining
from ..models.baselines.dino_head import DINOProjector
from ..registry import register
from ..reliability.sharding import is_sharded
from ..utils.model_state import unwrap_model


@register("hook")
class DINOHook(Hook):
    """Clips gradients before a step, and moves teacher and centre after it.

    It stands at the optimiser, not in the loop: a step that is skipped because its
    gradients are not finite, or not due because they are accumulated, moves nothing.
    All that it does follows from the iteration, so a resumed run goes on exactly.

    Args:
        momentum: Share of the teacher that the first step keeps. It rises to 1 by half
            a cosine over the run.
        max_norm: What the gradient of each parameter, by itself, is clipped to;
            ``None`` for no clipping.
        frozen_epochs: First epochs in which the last layer of the projection does not
            learn, which keeps all images from one prototype.

    Raises:
        ValueError: If an option is out of its range; when the run begins, if the model
            is another or is sharded.
    """

    priority = "NORMAL"

    def __init__(
        self,
        momentum: float = 0.996,
        max_norm: float | None = 3.0,
        frozen_epochs: int = 1,
    ) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(
                f"momentum={momentum} must be in [0, 1]; it is the share of the "
                "teacher that stays, 0.996 in the paper."
            )
        if max_norm is not None and not max_norm > 0:
            raise ValueError(
                f"max_norm={max_norm} must be greater than 0; None does not clip."
            )
        self.momentum = momentum
        self.max_norm = max_norm
        self.frozen_epochs = frozen_epochs
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Takes its place before and after the optimiser's steps."""
        model = unwrap_model(runner.model)
        if not isinstance(model, DINOPretraining):
            raise ValueError(
                f"DINOHook serves DINOPretraining, and the model is "
                f"{type(model).__name__}; take it out of custom_hooks."
            )
        if any(is_sharded(parameter) for parameter in model.parameters()):
            raise ValueError(
                "DINOHook cannot move a teacher whose student is sharded; train DINO "
                "data-parallel, without ShardingHook."
            )

        projector = cast(DINOProjector, model.student["neck"])

        def before_step(optimizer: Optimizer, *_: Any) -> None:
            if self.max_norm is not None:
                clip_each(optimizer, self.max_norm)
            if self._epoch(runner) < self.frozen_epochs:
                for parameter in projector.last_layer:
                    parameter.grad = None  # at zero it would still decay

        def after_step(optimizer: Optimizer, *_: Any) -> None:
            # A fused optimiser is told so, and leaves all as it is; the host is not.
            skipped = getattr(optimizer, "found_inf", None)
            momentum = self.momentum_at(runner.iter / runner.max_iters)
            model.update_teacher(momentum, skipped)
            model.head.move_center(skipped)

        model.teacher_moves = True
        optimizer = runner.optim_wrapper.optimizer
        self._handles = [
            optimizer.register_step_pre_hook(before_step),
            optimizer.register_step_post_hook(after_step),
        ]

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Sets the temperature of the teacher, for all iterations of a step."""
        if runner.optim_wrapper.should_update():
            head = unwrap_model(runner.model).head
            head.temperature.fill_(head.temperature_in(self._epoch(runner)))

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Forgets what the teacher said if the step was skipped."""
        if runner.optim_wrapper.should_update():
            unwrap_model(runner.model).head.forget()

    def after_train(self, runner: Runner) -> None:
        """Leaves the optimiser as it was."""
        for handle in self._handles:
            handle.remove()

    def momentum_at(self, progress: float) -> float:
        """Share of the teacher that a step keeps, at a share of the run in [0, 1]."""
        return 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2

    @staticmethod
    def _epoch(runner: Runner) -> int:
        return runner.iter // len(runner.train_dataloader)


def clip_each(optimizer: Optimizer, max_norm: float) -> None:
    """Clips the gradient of each parameter to a norm of its own.

    Args:
        optimizer: Its parameters' gradients are changed in place.
        max_norm: The largest norm.
    """
    found = [p.grad for group in optimizer.param_groups for p in group["params"]]
    gradients = [gradient for gradient in found if gradient is not None]
    # A fused optimiser takes the factor of a gradient scaler away by itself, later.
    scale = getattr(optimizer, "grad_scale", None)
    largest = max_norm if scale is None else max_norm * scale
    norms = torch._foreach_norm(gradients)
    factors = [(largest / (norm + 1e-6)).clamp(max=1) for norm in norms]
    torch._foreach_mul_(gradients, factors)
