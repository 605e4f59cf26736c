"""Makes a run's checkpoints load without running code."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import register
from ..weights.safe_loader import install_safe_loader


@register("hook")
class SafeLoaderHook(Hook):
    """Switches safe loading on, for configs without :class:`SafeCheckpointHook`.

    Runner calls it before it initialises or loads any weights, in training, validation
    and testing alike. See :func:`saim_mm.weights.install_safe_loader`.
    """

    priority = "HIGHEST"

    def before_run(self, runner: Runner) -> None:
        """Switches it on."""
        install_safe_loader()
