"""One training step on a made-up batch: does it work, does it fit, how long is it?"""

from __future__ import annotations

import copy
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

from ..launch import wrapper_without_amp
from ..utils.command_line import counted
from ..utils.model_state import random_state_kept
from ..utils.quiet_log import quiet_log
from ._outputs import short
from ._rule import Steps

#: Seconds of training that a killed run may lose.
_SECONDS_AT_RISK = 300
#: Images of the step where memory is no question.
_CPU_IMAGES = 8
#: Of a made-up image for a detector.
_OBJECTS = 4


@dataclass(frozen=True)
class Trial:
    """What one training step took, from preprocessing to the optimiser's step.

    ``parameters`` is how many learn, ``unreached`` those of them without a gradient.
    ``memory`` are the most bytes held: by tensors on a GPU, by the whole process
    without one (0 on Windows).
    """

    loss: float
    parameters: int
    unreached: tuple[str, ...]
    memory: int
    seconds: float
    device: str


def train_one_step(
    cfg: Config,
    size: tuple[int, int],
    device: str,
    images: int = 2,
    again: bool = False,
) -> Trial:
    """Builds model and optimiser of a config and trains them on made-up images.

    With ``again`` it makes a second step, which is the one that is timed: nothing is
    done for the first time, and the optimiser's state takes its memory from the start.

    The config, which is not changed, has ``model``, ``optim_wrapper`` and a
    ``default_scope`` of :data:`SCOPES`, the process's own. Batch
    augmentations, and the padding of segmentation to the crop, are left out, so that
    the images keep their size: rows and columns.

    Raises:
        ValueError: If the loss is not finite.
    """
    options = _small(cfg, size)
    model = revert_sync_batchnorm(MODELS.build(options))
    model.init_weights()
    model = model.to(device).train()
    wrapper_cfg = copy.deepcopy(cfg.optim_wrapper)
    if device == "cpu":
        wrapper_without_amp(wrapper_cfg)
    wrapper = build_optim_wrapper(model, wrapper_cfg)
    batch = made_up_batch(cfg, size, images)
    hub = MessageHub.get_current_instance()
    for name in ("iter", "epoch"):  # some losses ask for what a run counts
        if hub.get_info(name) is None:
            hub.update_info(name, 0)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(1 + again):
        wrapper.zero_grad()
        start = time.perf_counter()
        loss = _backward(model, wrapper, batch)
        wrapper.step()
    seconds = time.perf_counter() - start
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unreached = tuple(name for name, p in learnt.items() if p.grad is None)
    return Trial(
        loss=loss,
        parameters=sum(p.numel() for p in learnt.values()),
        unreached=unreached,
        memory=_peak_memory(device),
        seconds=seconds,
        device=device,
    )


def _small(cfg: Config, size: tuple[int, int]) -> ConfigDict:
    options = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor"):
        options.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    preprocessor = options.get("data_preprocessor") or ConfigDict()
    preprocessor.pop("batch_augments", None)
    if preprocessor.get("size"):
        preprocessor.size = size
    return options


def _backward(model: BaseModel, wrapper: Any, batch: dict[str, Any]) -> float:
    """The loss, after the gradients were computed."""
    with wrapper.optim_context(model):
        data = model.data_preprocessor(batch, True)
        losses = model(**data, mode="loss")
    loss, _ = model.parse_losses(losses)
    if not torch.isfinite(loss):
        raise ValueError(f"the loss is {loss.item()}.")
    wrapper.backward(wrapper.scale_loss(loss))
    return float(loss.item())


def _peak_memory(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows does not tell
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


def fit_to_memory(
    config_of: Callable[[Steps], Config], steps: Steps, device: str
) -> tuple[Steps, float]:
    """Trains on images of noise; halves what is computed at once till it fits.

    Also returns the seconds that an iteration takes.

    Raises:
        ValueError: If not even one image at once fits.
    """
    while True:
        images = steps.at_once if device == "cuda" else min(steps.at_once, _CPU_IMAGES)
        try:
            with (
                quiet_log(),
                random_state_kept(),
                DefaultScope.overwrite_default_scope("mmpretrain"),
            ):
                cfg = config_of(steps)
                side = int(cfg.model.backbone.img_size)
                trial = train_one_step(cfg, (side, side), device, images, again=True)
            return steps, trial.seconds * steps.at_once / images
        except (TypeError, AttributeError, KeyError, AssertionError) as error:
            raise ValueError(
                "The first training step fails, which a setting of cfg_options may be "
                f"the reason of: {short(error)}"
            ) from error
        except torch.cuda.OutOfMemoryError:
            if steps.at_once % 2:
                raise ValueError(
                    f"{counted(steps.at_once, 'image')} at once do not fit into the "
                    "GPU's memory; give a smaller model, or a batch_size that is a "
                    "power of two."
                ) from None
        gc.collect()  # outside: the error's traceback held the tensors
        torch.cuda.empty_cache()
        steps = steps.halved()


def saving_interval(seconds: float, iterations: int) -> int:
    """Iterations between two checkpoints."""
    return min(max(1, round(_SECONDS_AT_RISK / seconds)), iterations)


def made_up_batch(
    cfg: Config, size: tuple[int, int], number: int = 2
) -> dict[str, Any]:
    """Images of noise and samples, as the loader of such a model gives them.

    The config has ``model`` and a ``default_scope`` of :data:`SCOPES`; ``size`` is rows
    and columns. Returns ``inputs`` and ``data_samples``, for the data preprocessor.
    """
    rng = np.random.default_rng(0)
    classes = min(_values(cfg.model, "num_classes"), default=2)
    make = SCOPES[cfg.default_scope]
    channels = next(_values(cfg.model.backbone, "in_channels"), 3)
    samples = [make(rng, size, classes) for _ in range(number)]
    for sample in samples:
        sample.set_metainfo(
            dict(
                img_shape=size,
                ori_shape=size,
                pad_shape=size,
                batch_input_shape=size,
                scale_factor=(1.0, 1.0),
                flip=False,
                flip_direction=None,
                border=(0, size[0], 0, size[1]),
            )
        )
        if cfg.default_scope == "mmdet" and "mask" not in str(cfg.model):
            # RTMDet fails on masks that it does not read.
            del sample.gt_instances.masks, sample.ignored_instances.masks
    images = rng.integers(0, 256, (number, channels, *size), dtype=np.uint8)
    inputs = torch.from_numpy(images)
    stacked = cfg.default_scope == "mmpretrain"  # a list there is one of views
    return dict(inputs=inputs if stacked else list(inputs), data_samples=samples)


def _values(config: Any, name: str) -> Iterator[int]:
    """All whole numbers above 0 that stand under a name anywhere in a config."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == name and isinstance(value, int) and value > 0:
                yield value
            else:
                yield from _values(value, name)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _values(value, name)


def _detection_sample(
    rng: np.random.Generator, size: tuple[int, int], classes: int
) -> Any:
    """Boxes, masks, a map of classes, and proposals for those that read them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    rows, columns = size
    corners = rng.uniform(0, 0.5, (_OBJECTS, 2)) * (columns, rows)
    sides = rng.uniform(0.25, 0.5, (_OBJECTS, 2)) * (columns, rows)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    masks = np.zeros((_OBJECTS, rows, columns), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    found = torch.from_numpy(boxes).float()
    things = InstanceData(
        bboxes=found,
        labels=torch.from_numpy(rng.integers(0, classes, _OBJECTS)),
        masks=BitmapMasks(masks, rows, columns),
    )
    labels = torch.from_numpy(rng.integers(0, classes, (1, rows, columns)))
    return DetDataSample(
        gt_instances=things,
        ignored_instances=things[:0],
        proposals=InstanceData(bboxes=found + 1, scores=torch.ones(_OBJECTS)),
        gt_sem_seg=PixelData(sem_seg=labels),
    )


def _segmentation_sample(
    rng: np.random.Generator, size: tuple[int, int], classes: int
) -> Any:
    from mmseg.structures import SegDataSample

    labels = torch.from_numpy(rng.integers(0, classes, (1, *size)))
    edges = torch.from_numpy(rng.integers(0, 2, (1, *size)))
    depth = torch.from_numpy(rng.uniform(1, 2, (1, *size))).float()
    return SegDataSample(
        gt_sem_seg=PixelData(data=labels),
        gt_edge_map=PixelData(data=edges),
        gt_depth_map=PixelData(data=depth),
    )


def _classification_sample(
    rng: np.random.Generator, size: tuple[int, int], classes: int
) -> Any:
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(int(rng.integers(0, classes)))


#: Scopes of the models that images can be made up for, and what makes a sample.
SCOPES: dict[str, Callable[[np.random.Generator, tuple[int, int], int], Any]] = dict(
    mmdet=_detection_sample,
    mmseg=_segmentation_sample,
    mmpretrain=_classification_sample,
)
