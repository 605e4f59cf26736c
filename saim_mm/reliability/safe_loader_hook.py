"""Makes a run's checkpoints load without running code."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import register
from ..weights.allowed_types import find_classes
from ..weights.safe_loader import install_safe_loader


@register("hook")
class SafeLoaderHook(Hook):
    """Switches safe loading on, for configs without :class:`SafeCheckpointHook`.

    Runner calls it before it initialises or loads any weights, in training, validation
    and testing alike.

    Args:
        allow: Types that are trusted, by their full names; as for
            :func:`saim_mm.weights.install_safe_loader`. Beside
            :class:`SafeCheckpointHook` it is needed for these only.

    Raises:
        ValueError: If one of them is no class, or is not there.
    """

    priority = "HIGHEST"

    def __init__(self, allow: Sequence[str] = ()) -> None:
        self.allow = find_classes(allow)

    def before_run(self, runner: Runner) -> None:
        """Switches it on."""
        install_safe_loader(self.allow)
