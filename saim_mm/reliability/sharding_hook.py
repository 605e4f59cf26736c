"""Makes a run of MMEngine's Runner one whose processes keep a part of the model."""

from __future__ import annotations

from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from ..registry import register
from .sharding import FullyShardedModel, whole_state


@register("hook")
class ShardingHook(Hook):
    """Shards a :class:`FullyShardedModel`, and keeps the run's checkpoints whole.

    A checkpoint has the keys and tensors of any other run's, so that a run may go on
    with another number of processes, or without sharding.

    MMEngine's Runner calls a checkpoint's hooks on the first process alone, where parts
    cannot be brought together; so this hook stands before ``runner.save_checkpoint``,
    which all processes call.
    """

    # Before all that looks at the parameters or at a checkpoint's contents.
    priority = "HIGHEST"

    def __init__(self) -> None:
        self._whole: dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Shards model and optimiser, which are initialised or loaded by now.

        Raises:
            ValueError: If the model is no :class:`FullyShardedModel`, if there is more
                than one optimiser, or if another hook runs the model by itself.
        """
        if get_world_size() == 1:
            runner.logger.info("ShardingHook: one process has it all; nothing to do.")
            return
        if not isinstance(runner.model, FullyShardedModel):
            raise ValueError(
                f"ShardingHook shards no {type(runner.model).__name__}; set "
                "model_wrapper_cfg=dict(type='FullyShardedModel'), or leave the hook "
                "out."
            )
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            raise ValueError(
                f"ShardingHook needs one optimiser, and optim_wrapper is a "
                f"{type(runner.optim_wrapper).__name__}; use an OptimWrapper."
            )
        for hook in runner.hooks:
            if getattr(hook, "runs_model_on_rank_zero", False):
                raise ValueError(
                    f"{type(hook).__name__} runs the model on one process, which has "
                    "only a part of it; leave it out, and judge the checkpoints by "
                    "tools/analysis_tools/knn.py or tools/visualizations."
                )
        model, wrapper = runner.model, runner.optim_wrapper
        model.shard(wrapper.optimizer)
        save = runner.save_checkpoint

        def save_whole(*args: Any, **kwargs: Any) -> None:
            self._whole = dict(
                state_dict=whole_state(model.module.state_dict()),
                optimizer=whole_state(wrapper.state_dict()),
            )
            try:
                save(*args, **kwargs)
            finally:
                self._whole = {}

        runner.save_checkpoint = save_whole

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Puts what is whole in the place of this process's parts."""
        whole = self._whole.items()
        checkpoint.update({k: value for k, value in whole if k in checkpoint})
