"""What is compared at equal compute: SAIM in its forms, and its rivals.

Each is a few of the package's own parts. For each the learning rates are tried first,
then its two ``alternatives`` at the best of them: the same number of trials for all.
"""

from __future__ import annotations

from typing import Any

from .experiments import EXPERIMENTS, Experiment
from .scale import Scale

#: A quarter of the 8 x 8 patches of all presets.
_QUARTER = 16
_PLAIN = dict(smoothing=None)
_ONE, _HALF, _FULL = dict(decoder="one"), dict(decoder=0.5), dict(decoder=1)
_LONG_WARMUP = dict(warmup=0.2)


def _system(
    name: str,
    title: str,
    alternatives: tuple[dict[str, Any], ...],
    seeds: int = 3,
    **options: Any,
) -> Experiment:
    """A member of SAIM's family; no target is smoothed unless it says so."""
    options.setdefault("head", _PLAIN)
    return Experiment(
        name, title, options=options, seeds=seeds, alternatives=alternatives
    )


def _reading(kind: str, **options: Any) -> dict[str, Any]:
    return dict(reading=dict(type=f"{kind}Reading", **options))


def _fixed(read: int = _QUARTER, **options: Any) -> dict[str, Any]:
    return _reading("Fixed", read=read, **options)


_ALL_AFTER: dict[str, Any] = dict(asks="after", content="all")
_RASTER: dict[str, Any] = dict(order="raster", decoder=0)
_RASTER_ALTERNATIVES = (_LONG_WARMUP, dict(head=dict(projector="linear", **_PLAIN)))
_NEPA_ENCODER = dict(
    type="RotaryViT", rope_rescale=2.0, qk_norm="plain", layer_scale_init_value=1e-5
)
_DINO_HOOK = dict(type="DINOHook", frozen_epochs=0)  # a run has few epochs

#: In the order in which they are run.
SYSTEMS = {
    system.name: system
    for system in (
        Experiment("random", "random weights", task="none", seeds=3),
        Experiment(
            "mae", "MAE", task="mae", seeds=6,
            alternatives=(dict(mask_ratio=0.6), dict(decoder_depth=1)),
        ),
        _system("fixed", "SAIM, a quarter read, no mask, decoder of 1 layer",
                (_fixed(read=24, **_ALL_AFTER), _HALF),
                **_ONE, **_fixed(**_ALL_AFTER)),
        _system("fixed-causal", "SAIM, a quarter read, causal, decoder of 1 layer",
                (_fixed(asks="all"), _HALF), **_ONE, **_fixed(asks="after")),
        _system("recipe", "SAIM, half a decoder, no smoothing",
                (_ONE, _LONG_WARMUP), **_HALF),
        _system("saim", "SAIM as in the paper (smoothing 9/1)",
                (dict(head=dict(smoothing=dict(kernel_size=3, sigma=1.0))),
                 _LONG_WARMUP), head={}),
        _system("crossmae", "CrossMAE",
                (_fixed(asked=_QUARTER, **_ALL_AFTER),
                 dict(neck=dict(type="CrossMAENeck", depth=1))),
                seeds=6, neck=dict(type="CrossMAENeck"),
                head=dict(projector="linear", **_PLAIN), **_fixed(**_ALL_AFTER)),
        # The best two combined.
        _system("combined", "SAIM, a quarter read, causal; CrossMAE's decoder, 1 layer",
                (_reading("Prefix", read=_QUARTER),
                 dict(neck=dict(type="CrossMAENeck", depth=2))),
                seeds=6, neck=dict(type="CrossMAENeck", depth=1),
                head=dict(projector="linear", **_PLAIN), **_fixed(asks="all")),
        Experiment(
            "dino", "DINO", task="dino", seeds=3,
            options=dict(pool="cls", hooks=[dict(momentum=0.99, **_DINO_HOOK)]),
            alternatives=(dict(hooks=[dict(momentum=0.95, **_DINO_HOOK)]),
                          dict(local_crops=0)),
        ),
        Experiment(
            "simmim", "SimMIM", task="simmim", seeds=3,
            alternatives=(dict(hidden_share=0.4), _LONG_WARMUP),
        ),
        _system("igpt", "ViT-iGPT", _RASTER_ALTERNATIVES, **_RASTER),
        _system("igpt-causal", "ViT-iGPT, judged with its mask", _RASTER_ALTERNATIVES,
                encoder=dict(visible="causal"), **_RASTER),
        _system("randsac", "RandSAC, segments of 2 x 2", (_HALF, _ONE),
                order="segments", segment_size=(2, 2),
                segment_order=dict(type="HierarchicalSegments", group_size=(2, 2)),
                neck=dict(type="RandSACNeck")),
        _system("aim", "AIM, head of 4 blocks",
                (dict(head=dict(type="AIMHead", num_blocks=1)), _LONG_WARMUP),
                order="raster", decoder=None, neck=dict(type="AIMNeck"),
                encoder=dict(with_cls_token=False),
                head=dict(type="AIMHead", num_blocks=4),
                **_reading("Prefix", weight="patches")),
        _system("nepa", "NEPA",
                (dict(encoder=dict(visible="causal", **_NEPA_ENCODER)),
                 dict(encoder={**_NEPA_ENCODER, "layer_scale_init_value": 0.1})),
                type="NEPA", encoder=_NEPA_ENCODER, head=dict(type="EmbeddingHead"),
                **_RASTER),
        _system("xtra", "XTRA-like, blocks of 2 x 2", (_ONE, _LONG_WARMUP),
                order="segments", segment_size=(2, 2), segment_order="raster",
                decoder=2 / 3, neck=dict(memory="last"), head=dict(type="BlockHead")),
        _system("cut", "SAIM, cut anywhere, 16 asked after it",
                (_reading("Cut", asked=_QUARTER, content="all"), _FULL),
                **_HALF, **_reading("Cut", asked=_QUARTER)),
        _system("strata", "SAIM, one of 4 stretches",
                (_reading("Strata", strata=8), _FULL),
                **_HALF, **_reading("Strata", strata=4)),
        _system("prefix", "SAIM, a random prefix that sees itself",
                (_reading("Prefix", weight="patches"), _ONE),
                **_HALF, **_reading("Prefix")),
    )
}  # fmt: skip


def rows_of(scale: Scale) -> dict[str, Experiment]:
    """What a scale compares, by name: systems if it has budgets, else ablations."""
    return SYSTEMS if scale.budgets else EXPERIMENTS
