"""What keeps a run of MMEngine's Runner alive and repeatable, whatever it trains."""

from .broken_image_hook import BrokenImageHook
from .checkpoint_hook import SafeCheckpointHook
from .exact_loops import ExactEpochLoop, ExactIterLoop
from .exact_resume_hook import ExactResumeHook
from .finite_guard_hook import FiniteGuardHook, NotFiniteError
from .preemption_hook import PreemptionHook
from .runtime_info_hook import DeferredRuntimeInfoHook
from .safe_loader_hook import SafeLoaderHook
from .schedules import MultiStepShareLR
from .sharding import FullyShardedModel
from .sharding_hook import ShardingHook
from .watchdog_hook import WatchdogHook

__all__ = [
    "BrokenImageHook",
    "DeferredRuntimeInfoHook",
    "ExactEpochLoop",
    "ExactIterLoop",
    "ExactResumeHook",
    "FiniteGuardHook",
    "FullyShardedModel",
    "MultiStepShareLR",
    "NotFiniteError",
    "PreemptionHook",
    "SafeCheckpointHook",
    "SafeLoaderHook",
    "ShardingHook",
    "WatchdogHook",
]
