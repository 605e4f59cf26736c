"""Hooks that know SAIM: probes, pictures, throughput, compilation; layer decay."""

# The old import path of what lies in ``reliability`` now; it goes with version 0.3.
from ..reliability import *  # noqa: F403
from ..reliability import __all__ as _moved
from .best_layer_hook import BestLayerHook
from .check_classes_hook import CheckClassesHook
from .compile_hook import CompileLayersHook
from .dino_hook import DINOHook
from .effective_rank_hook import EffectiveRankHook
from .knn_loop import KNNLoop
from .logger_hook import LiveLoggerHook, ProgressHook, quiet_runner, shown
from .online_probe_hook import OnlineProbeHook
from .optim_constructor import SAIMOptimWrapperConstructor
from .picture_hook import PictureHook
from .probe_hook import KNNHook, ProbeHook
from .report_hook import ReportHook
from .throughput_hook import ThroughputHook

__all__ = [
    "BestLayerHook",
    "CheckClassesHook",
    "CompileLayersHook",
    "DINOHook",
    "EffectiveRankHook",
    "KNNHook",
    "KNNLoop",
    "LiveLoggerHook",
    "OnlineProbeHook",
    "PictureHook",
    "ProbeHook",
    "ProgressHook",
    "ReportHook",
    "SAIMOptimWrapperConstructor",
    "ThroughputHook",
    "quiet_runner",
    "shown",
    *_moved,
]
