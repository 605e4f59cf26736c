"""Lets a probe of all layers predict by the one that is best."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..models.probing.probe_heads import LayerwiseClsHead
from ..registry import register
from ..utils.model_state import unwrap_model


@register("hook")
class BestLayerHook(Hook):
    """After each validation, chooses the layer by the figures of ``LayerAccuracy``.

    The earliest of several. A checkpoint that is saved by
    ``save_best="accuracy/best_layer"`` holds the choice.

    Raises:
        ValueError: When training begins, if the head is no :class:`LayerwiseClsHead`;
            then, if a validation has no figures by layer.
    """

    # Before the checkpoint of the best figure is saved.
    priority = "NORMAL"

    def before_train(self, runner: Runner) -> None:
        """Refuses a model without layers to choose from."""
        head = getattr(unwrap_model(runner.model), "head", None)
        if not isinstance(head, LayerwiseClsHead):
            raise ValueError(
                f"BestLayerHook chooses a layer of a LayerwiseClsHead, and the head is "
                f"a {type(head).__name__}; leave it out."
            )

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Chooses."""
        head, found = unwrap_model(runner.model).head, metrics or {}
        names = [f"accuracy/layer_{i:02d}" for i in range(len(head.probes))]
        if not set(names) <= set(found):
            raise ValueError(
                "BestLayerHook needs val_evaluator=dict(type='LayerAccuracy'), and the "
                f"validation gave {sorted(found)}."
            )
        best = max(range(len(names)), key=lambda i: found[names[i]])
        head.best.fill_(best)
        runner.logger.info(f"layer {best} is best: {found[names[best]]:.2f} %")
