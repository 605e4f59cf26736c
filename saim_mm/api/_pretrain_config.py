"""The config of a pretraining: what it changes of a shipped recipe for ViT-B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models import SAIMViT
from ._child import Block
from ._rule import EncoderSize, PretrainPlan, Steps
from ._start_weights import StartWeights

#: The shipped configs that are parents: of the paper, and with a narrow decoder.
PAPER = "saim/saim_vit-b_300e_in1k.py"
FAST = "saim/saim_vit-b_fast_300e_in1k.py"
#: Small enough for a CPU: as in `make demo`, with the usual 64 channels a head.
_NANO = dict(embed_dims=128, num_layers=4, num_heads=2, feedforward_channels=512)
#: Names of models -> what SAIMViT calls them.
MODELS: dict[str, str | dict[str, int]] = {
    "vit-nano": _NANO,
    "vit-tiny": "deit-tiny",
    "vit-s": "deit-small",
    "vit-b": "base",
    "vit-l": "large",
    "vit-h": "huge",
}
_LARGE_PATCH = {"vit-h": 14}


def arch_settings(arch: str | dict[str, int]) -> dict[str, int]:
    """What an arch consists of."""
    return arch if isinstance(arch, dict) else SAIMViT.arch_zoo[arch]


def size_of(model: str) -> EncoderSize:
    """The size of a model by its name.

    Raises:
        ValueError: If there is no such model.
    """
    if model not in MODELS:
        raise ValueError(f"model={model!r}: there are {', '.join(MODELS)}.")
    arch = arch_settings(MODELS[model])
    large_patch = _LARGE_PATCH.get(model, 16)
    return EncoderSize(arch["embed_dims"], arch["num_layers"], large_patch=large_patch)


def arch_block(arch: str | dict[str, int]) -> Any:
    """An arch as a child config writes it over a name."""
    return dict(_delete_=True, **arch) if isinstance(arch, dict) else arch


def pretrain_blocks(
    plan: PretrainPlan,
    arch: str | dict[str, int],
    folder: Path,
    start: StartWeights | None,
    seed: int,
    interval: int,
) -> Block:
    """The settings of a child of :data:`FAST` if the plan is narrow, or :data:`PAPER`.

    ``folder`` is that of the images, ``interval`` the iterations between checkpoints.
    """
    backbone: Block = dict(
        arch=arch_block(arch), img_size=plan.image_size, patch_size=plan.patch_size
    )
    crop = dict(
        type="LoadRandomResizedCrop",
        scale=plan.image_size,
        crop_ratio_range=(plan.crop_from, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        flip_prob=0.5,
    )
    blocks: Block = dict(
        model=dict(backbone=backbone, **_decoder_blocks(plan, arch)),
        train_dataloader=dict(
            batch_size=plan.steps.at_once,
            num_workers=plan.steps.workers,
            dataset=dict(
                data_root=str(folder),
                data_prefix="",
                pipeline=[crop, dict(type="PackInputs")],
            ),
        ),
        optim_wrapper=optim_block(plan.lr, plan.steps, layer_decay=plan.layer_decay),
        auto_scale_lr=dict(base_batch_size=plan.steps.batch),
        # Steps, not epochs: images are drawn without end, and no rest of an epoch is
        # left out, however few there are.
        param_scheduler=_schedule(plan),
        train_cfg=dict(_delete_=True, type="ExactIterLoop", max_iters=plan.iterations),
        log_processor=dict(by_epoch=False),
        default_hooks=hooks_block(interval),
        randomness=dict(seed=seed),
    )
    if start is not None and start.size.decoder:
        blocks["load_from"] = str(start.path)
        blocks["custom_hooks"] = [dict(type="CompleteLoadHook")]
    elif start is not None:
        backbone["init_cfg"] = dict(type="Pretrained", checkpoint=str(start.path))
    return blocks


def _decoder_blocks(plan: PretrainPlan, arch: str | dict[str, int]) -> Block:
    """Neck, head and reading; a narrow decoder has two thirds of the heads (MAE's)."""
    blocks: Block = dict(neck=dict(depth=plan.decoder))
    if plan.narrow:
        sizes = arch_settings(arch)
        heads = max(1, round(sizes["num_heads"] * 2 / 3))
        width = sizes["embed_dims"] // sizes["num_heads"] * heads
        blocks["neck"].update(width=width, decoder_heads=heads)
        blocks["reading"] = dict(read=plan.read)
    elif not plan.smoothing:
        blocks["head"] = dict(smoothing=None)
    return blocks


def optim_block(lr: float, steps: Steps, layer_decay: float = 1.0) -> Block:
    """Rate, accumulation and precision; without a GPU, float32 comes by itself."""
    block: Block = dict(optimizer=dict(lr=lr))
    if steps.accumulation > 1:
        block["accumulative_counts"] = steps.accumulation
    if layer_decay < 1:
        block["paramwise_cfg"] = dict(layer_decay_rate=layer_decay)
    if steps.precision == "bf16":
        block["dtype"] = "bfloat16"
    return block


def hooks_block(interval: int, **checkpoint: Any) -> Block:
    """Checkpoints that a kill costs minutes at most, and a page to look at."""
    return dict(
        report=dict(type="ReportHook"),
        logger=dict(interval=10, seconds_per_line=10),
        checkpoint=dict(by_epoch=False, interval=interval, **checkpoint),
    )


def _schedule(plan: PretrainPlan) -> list[Block]:
    """As in Table 6, by iterations."""
    warm_up = plan.warm_up * plan.steps.accumulation
    cosine = dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=warm_up)
    if not warm_up:
        return [cosine]
    rise = dict(type="LinearLR", start_factor=1e-8, by_epoch=False, begin=0)
    return [dict(**rise, end=warm_up), cosine]
