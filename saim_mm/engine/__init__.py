"""What training needs beside the model."""

from .broken_image_hook import BrokenImageHook
from .checkpoint_hook import SafeCheckpointHook
from .compile_hook import CompileLayersHook
from .exact_loops import ExactEpochLoop, ExactIterLoop
from .exact_resume_hook import ExactResumeHook
from .finite_guard_hook import FiniteGuardHook, NotFiniteError
from .knn_hook import KNNHook
from .knn_loop import KNNLoop
from .optim_constructor import SAIMOptimWrapperConstructor
from .picture_hook import PictureHook
from .preemption_hook import PreemptionHook
from .runtime_info_hook import DeferredRuntimeInfoHook
from .sharding import FullyShardedModel
from .sharding_hook import ShardingHook
from .throughput_hook import ThroughputHook
from .watchdog_hook import WatchdogHook

__all__ = [
    "BrokenImageHook",
    "CompileLayersHook",
    "DeferredRuntimeInfoHook",
    "ExactEpochLoop",
    "ExactIterLoop",
    "ExactResumeHook",
    "FiniteGuardHook",
    "FullyShardedModel",
    "KNNHook",
    "KNNLoop",
    "NotFiniteError",
    "PictureHook",
    "PreemptionHook",
    "SAIMOptimWrapperConstructor",
    "SafeCheckpointHook",
    "ShardingHook",
    "ThroughputHook",
    "WatchdogHook",
]
