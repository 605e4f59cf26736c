"""What keeps a run of MMEngine's Runner alive and repeatable, whatever it trains.

* :mod:`exact_loops`, :mod:`exact_resume_hook`: a resumed run is the uninterrupted one.
* :mod:`checkpoint_hook`, :mod:`verified_backend`, :mod:`weights_only_codec`:
  checkpoints that are verified before older ones go.
* :mod:`finite_guard_hook`: no step on what is not finite; :mod:`preemption_hook`:
  signals; :mod:`watchdog_hook`: stuck processes; :mod:`broken_image_hook`: files.
* :mod:`replay`: computes a step that was not made once more.
* :mod:`sharding`, :mod:`sharding_hook`: parts of a model on each process.
"""

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
