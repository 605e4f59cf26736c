"""Hooks that know SAIM: kNN, pictures, throughput, compilation; layer decay."""

# The old import path of what lies in ``reliability`` now; it goes with version 0.3.
from ..reliability import *  # noqa: F403
from ..reliability import __all__ as _moved
from .check_classes_hook import CheckClassesHook
from .compile_hook import CompileLayersHook
from .dino_hook import DINOHook
from .knn_hook import KNNHook
from .knn_loop import KNNLoop
from .logger_hook import LiveLoggerHook, ProgressHook
from .optim_constructor import SAIMOptimWrapperConstructor
from .picture_hook import PictureHook
from .shown_run import quiet_runner, shown
from .throughput_hook import ThroughputHook

__all__ = [
    "CheckClassesHook",
    "CompileLayersHook",
    "DINOHook",
    "KNNHook",
    "KNNLoop",
    "LiveLoggerHook",
    "PictureHook",
    "ProgressHook",
    "SAIMOptimWrapperConstructor",
    "ThroughputHook",
    "quiet_runner",
    "shown",
    *_moved,
]
