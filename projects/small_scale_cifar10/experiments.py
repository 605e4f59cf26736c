"""What is compared: one experiment per system, as a few changes to one base."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Task = Literal["saim", "mae", "simmim", "labels", "none"]


@dataclass(frozen=True)
class Scale:
    """Size of the models and of the runs; the same for every experiment.

    Attributes:
        name: Of the preset.
        width: Channels of the encoder.
        depth: Layers of the encoder.
        heads: Attention heads.
        image_size: Rows, and columns, of an image in pixels.
        patch_size: Rows, and columns, of a patch.
        train_images: Images to train on, equally many of each class.
        held_out: Training images beside them that choose the learning rates.
        test_images: Images to judge on, equally many of each class.
        batch_size: Images per step.
        pretrain_epochs: Passes of pretraining.
        finetune_epochs: Passes of fine-tuning.
        warmup: Share of the steps with a rising rate.
        rates: Peak learning rates that every method is tuned over.
        finetune_rate: Peak learning rate of fine-tuning, for every experiment.
        layer_decay: Layer-wise rate decay of fine-tuning, for every experiment.
    """

    name: str
    width: int
    depth: int
    heads: int
    train_images: int
    held_out: int
    test_images: int
    batch_size: int
    pretrain_epochs: int
    finetune_epochs: int
    rates: tuple[float, ...]
    image_size: int = 32
    patch_size: int = 4
    warmup: float = 0.1
    finetune_rate: float = 1e-3
    layer_decay: float = 0.75

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "rates": list(self.rates)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Scale:
        """The inverse of :meth:`as_json`."""
        return cls(**{**content, "rates": tuple(content["rates"])})

    def changed(self, settings: Sequence[str]) -> Scale:
        """With other values, given as ``NAME=VALUE``.

        Raises:
            ValueError: If a name is unknown or a value is not written as in Python.
        """
        changes = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in asdict(self):
                raise ValueError(f"{setting!r} names none of {list(asdict(self))}.")
            try:
                changes[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                raise ValueError(
                    f"{setting!r} has no value that Python could read; write "
                    "pretrain_epochs=20 or rates=(1e-3,2e-3)."
                ) from None
        return replace(self, **changes)


PRESETS = {
    scale.name: scale
    for scale in (
        # 3 to 5 minutes of one CPU core for an experiment and seed.
        Scale("cpu", 64, 4, 4, 10_000, 5_000, 10_000, 64, 4, 2, (1e-3, 2e-3, 4e-3)),
        # A narrow 12-layer ViT, for one GPU.
        Scale("gpu", 192, 12, 3, 45_000, 5_000, 10_000, 512, 100, 20,
              (5e-4, 1e-3, 2e-3)),
        # Seconds, for the tests.
        Scale("tiny", 16, 2, 2, 20, 10, 20, 10, 1, 1, (1e-3, 2e-3)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """A system that is trained and judged; one row of the tables.

    Attributes:
        name: Short, unique.
        title: For people.
        task: What is learnt before the judging; ``none`` judges random weights.
        options: For ``saim``, what differs from the paper's SAIM: ``order``,
            ``decoder`` (share of the encoder's depth, 0 for none, or ``"one"`` layer),
            ``tied_decoder``, ``segment_size``, ``query_share``, and options of
            ``SAIMHead``.
        rate_of: The experiment whose tuned learning rate is used; by default its own.
        seeds: How many by default: 3 where a claim of the paper hangs on it.
    """

    name: str
    title: str
    task: Task = "saim"
    options: dict[str, Any] = field(default_factory=dict)
    rate_of: str = ""
    seeds: int = 1

    @property
    def tuned_name(self) -> str:
        """Name of the experiment that the learning rate is tuned on."""
        return self.rate_of or self.name


def _saim(name: str, title: str, seeds: int = 1, **options: Any) -> Experiment:
    return Experiment(name, title, options=options, rate_of="saim", seeds=seeds)


#: Those first that the paper's claims hang on. As in its Tables 3 and 4, order and
#: decoder are compared without smoothing, and losses with it.
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("random", "random weights", task="none", seeds=3),
        Experiment("saim", "SAIM as in the paper (smoothing 9/1)", seeds=3),
        _saim("stochastic", "stochastic, decoder; no smoothing", 3, smoothing=None),
        Experiment("mae", "MAE", task="mae", seeds=3),
        replace(
            _saim("raster", "raster, no decoder (ViT-iGPT)", 3,
                  order="raster", decoder=0, smoothing=None),
            rate_of="",
        ),
        _saim("raster-decoder", "raster, decoder", 3, order="raster", smoothing=None),
        _saim("coupled", "stochastic, coupled decoder", 3,
              tied_decoder=True, smoothing=None),
        _saim("decoder-1", "stochastic, decoder of 1 layer", 3,
              decoder="one", smoothing=None),
        _saim("smooth-3", "smoothing 3/1", 3, smoothing=dict(kernel_size=3, sigma=1.0)),
        _saim("mse", "smoothing 9/1, MSE of plain pixels", 3, norm_pix=False),
        _saim("l1", "smoothing 9/1, L1 of plain pixels", loss="l1", norm_pix=False),
        _saim("decoder-half", "stochastic, decoder of half the depth",
              decoder=0.5, smoothing=None),
        _saim("raster-decoder-half", "raster, decoder of half the depth",
              order="raster", decoder=0.5, smoothing=None),
        # As wide, measured in patches, as 9/1 is for patches of 16 pixels is hardly a
        # filter at all (sigma 0.25); this lies between.
        _saim("smooth-3-half", "smoothing 3/0.5",
              smoothing=dict(kernel_size=3, sigma=0.5)),
        _saim("query-half", "half of the queries", query_share=0.5),
        _saim("query-quarter", "a quarter of the queries", query_share=0.25),
        _saim(
            "segments",
            "segments of 2 x 2 patches, as in RandSAC",
            order="segments",
            segment_size=(2, 2),
            smoothing=None,
        ),
        Experiment("simmim", "SimMIM", task="simmim"),
        Experiment("supervised", "labels, same number of images seen", task="labels"),
    )
}  # fmt: skip


def encoder_config(scale: Scale, **options: Any) -> dict[str, Any]:
    """Config of the encoder that all experiments share."""
    arch = dict(
        embed_dims=scale.width,
        num_layers=scale.depth,
        num_heads=scale.heads,
        feedforward_channels=4 * scale.width,
    )
    base = dict(type="SAIMViT", arch=arch, final_norm=False)
    sizes = dict(img_size=scale.image_size, patch_size=scale.patch_size)
    return {**base, **sizes, **options}


def model_config(experiment: Experiment, scale: Scale) -> dict[str, Any]:
    """Config of the model that an experiment of one of these three tasks pretrains."""
    makers = dict(saim=_saim_config, mae=_mae_config, simmim=_simmim_config)
    return makers[experiment.task](experiment, scale)


def _saim_config(experiment: Experiment, scale: Scale) -> dict[str, Any]:
    options = dict(experiment.options)
    share = options.pop("decoder", 1)
    depth = 1 if share == "one" else round(share * scale.depth)
    tied = options.pop("tied_decoder", False)
    model = dict(
        type="SAIM",
        backbone=encoder_config(scale),
        neck=dict(type="SAIMNeck", depth=depth, tied_decoder=tied),
        order=options.pop("order", "stochastic"),
        segment_size=options.pop("segment_size", None),
        query_share=options.pop("query_share", 1.0),
    )
    # What is left are options of the head, which refuses what it does not know.
    return {**model, "head": {"type": "SAIMHead", **options}}


def _mae_config(experiment: Experiment, scale: Scale) -> dict[str, Any]:
    """MAE with the proportions of MAE ViT-B: 2/3 of the width, 2/3 of the depth."""
    encoder = encoder_config(scale, type="MAEViT", final_norm=True, mask_ratio=0.75)
    head_width = scale.width // scale.heads
    width = head_width * max(1, round(scale.heads * 2 / 3))
    grid = scale.image_size // scale.patch_size
    return dict(
        type="MAE",
        backbone=encoder,
        neck=dict(
            type="MAEPretrainDecoder",
            num_patches=grid**2,
            patch_size=scale.patch_size,
            embed_dim=scale.width,
            decoder_embed_dim=width,
            decoder_depth=max(1, round(scale.depth * 2 / 3)),
            decoder_num_heads=width // head_width,
        ),
        head=dict(
            type="MAEPretrainHead",
            norm_pix=True,
            patch_size=scale.patch_size,
            loss=dict(type="PixelReconstructionLoss", criterion="L2"),
        ),
        init_cfg=[
            dict(type="Xavier", layer="Linear", distribution="uniform"),
            dict(type="Constant", layer="LayerNorm", val=1.0, bias=0.0),
        ],
    )


def _simmim_config(experiment: Experiment, scale: Scale) -> dict[str, Any]:
    encoder = encoder_config(
        scale, type="SimMIMViT", final_norm=True, out_type="featmap"
    )
    return dict(
        type="SimMIM",
        backbone=encoder,
        neck=dict(
            type="SimMIMLinearDecoder",
            in_channels=scale.width,
            encoder_stride=scale.patch_size,
        ),
        head=dict(
            type="SimMIMHead",
            patch_size=scale.patch_size,
            loss=dict(type="PixelReconstructionLoss", criterion="L1", channel=3),
        ),
    )
