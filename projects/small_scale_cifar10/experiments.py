"""What is compared after equal epochs: the paper's ablations, one experiment each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Task = Literal["saim", "mae", "simmim", "dino", "labels", "none"]


@dataclass(frozen=True)
class Experiment:
    """A system that is trained and judged; one row of the tables.

    Attributes:
        name: Short, unique.
        title: For people.
        task: What is learnt before the judging; ``none`` judges random weights.
        options: What differs from the task's own; see :mod:`models`.
        rate_of: The experiment whose tuned learning rate is used; by default its own.
        seeds: How many by default: 3 where a claim of the paper hangs on it.
        alternatives: Changes to the options that are tried at the best learning rate.
    """

    name: str
    title: str
    task: Task = "saim"
    options: dict[str, Any] = field(default_factory=dict)
    rate_of: str = ""
    seeds: int = 1
    alternatives: tuple[dict[str, Any], ...] = ()

    @property
    def tuned_name(self) -> str:
        """Name of the experiment that the learning rate is tuned on."""
        return self.rate_of or self.name

    def changed(self, changes: dict[str, Any]) -> Experiment:
        """With other options."""
        return replace(self, options={**self.options, **changes})


def _saim(name: str, title: str, seeds: int = 1, **options: Any) -> Experiment:
    return Experiment(name, title, options=options, rate_of="saim", seeds=seeds)


_PLAIN = dict(smoothing=None)

#: Those first that the paper's claims hang on. As in its Tables 3 and 4, order and
#: decoder are compared without smoothing, and losses with it.
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("random", "random weights", task="none", seeds=3),
        Experiment("saim", "SAIM as in the paper (smoothing 9/1)", seeds=3),
        _saim("stochastic", "stochastic, decoder; no smoothing", 3, head=_PLAIN),
        Experiment("mae", "MAE", task="mae", seeds=3),
        replace(
            _saim("raster", "raster, no decoder (ViT-iGPT)", 3,
                  order="raster", decoder=0, head=_PLAIN),
            rate_of="",
        ),
        _saim("raster-decoder", "raster, decoder", 3, order="raster", head=_PLAIN),
        _saim("coupled", "stochastic, coupled decoder", 3,
              neck=dict(tied_decoder=True), head=_PLAIN),
        _saim("decoder-1", "stochastic, decoder of 1 layer", 3,
              decoder="one", head=_PLAIN),
        _saim("smooth-3", "smoothing 3/1", 3,
              head=dict(smoothing=dict(kernel_size=3, sigma=1.0))),
        _saim("mse", "smoothing 9/1, MSE of plain pixels", 3,
              head=dict(norm_pix=False)),
        _saim("l1", "smoothing 9/1, L1 of plain pixels",
              head=dict(loss="l1", norm_pix=False)),
        _saim("decoder-half", "stochastic, decoder of half the depth",
              decoder=0.5, head=_PLAIN),
        _saim("raster-decoder-half", "raster, decoder of half the depth",
              order="raster", decoder=0.5, head=_PLAIN),
        # As wide, measured in patches, as 9/1 is for patches of 16 pixels is hardly a
        # filter at all (sigma 0.25); this lies between.
        _saim("smooth-3-half", "smoothing 3/0.5",
              head=dict(smoothing=dict(kernel_size=3, sigma=0.5))),
        _saim("query-half", "half of the queries", query_share=0.5),
        _saim("query-quarter", "a quarter of the queries", query_share=0.25),
        _saim(
            "segments",
            "segments of 2 x 2 patches, as in RandSAC",
            order="segments",
            segment_size=(2, 2),
            head=_PLAIN,
        ),
        Experiment("simmim", "SimMIM", task="simmim"),
        Experiment("supervised", "labels, same number of images seen", task="labels"),
    )
}  # fmt: skip
