"""Judges of frozen features, all of one kind: a hook or a tool runs any of them.

A probe says which views of the encoder it reads and makes figures of them. Register one
of yours with ``@register("task_util")``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from ..models.probing.attentive_pool import AttentivePool, EfficientPool
from ..registry import TASK_UTILS, register
from .attentive_probe import AttentiveRecipe, attentive_probe, choose_rate
from .best_layer import best_layer_probe
from .effective_rank import rankme
from .features import Pool, View, Views, layer_index
from .knn import knn_accuracy
from .linear_probe import ProbeRecipe, linear_probe

#: By the name that it is logged under, in percent where it is an accuracy.
Figures = dict[str, float]
_HELD_OUT = "/held_out_layer_"


class Probe(Protocol):
    """What judges frozen features.

    Attributes:
        name: What its figures are called by.
        least: Images that it needs to learn from.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def least(self) -> int: ...  # noqa: D102

    def views(self, num_layers: int) -> list[View]:
        """What it reads of an encoder of so many layers."""

    def judge(self, train: Views, val: Views, num_layers: int) -> Figures:
        """Learns from the training images and judges the others.

        The same in all processes of a run, which must all call it.

        Args:
            train: By view, features of the images to learn from.
            val: By view, features of those to be judged on.
            num_layers: As for :meth:`views`.

        Raises:
            ValueError: If there are too few images.
        """


class _OfVectors:
    """A probe of one vector per image.

    Attributes:
        pool: ``avg`` (mean of the patches) or ``cls`` (class token).
        layer: Counted from 0; -1 is the last one.
    """

    kind: ClassVar[str]
    pool: Pool
    layer: int | Literal["best"]

    @property
    def name(self) -> str:
        """Its kind, and what is read if it is not the mean of the last layer."""
        parts = [self.kind]
        if self.layer != -1:
            parts.append("best" if self.layer == "best" else f"layer{self.layer}")
        if self.pool != "avg":
            parts.append(self.pool)
        return "_".join(parts)

    def views(self, num_layers: int) -> list[View]:
        """One, or for the best layer one of each."""
        if self.layer == "best":
            return [View((i,), self.pool) for i in range(num_layers)]
        return [View((layer_index(self.layer, num_layers),), self.pool)]


@register("task_util")
@dataclass(frozen=True)
class KNNProbe(_OfVectors):
    """Nearest neighbours, :func:`saim_mm.evaluation.knn_accuracy`.

    ``k`` and ``temperature`` are as there.
    """

    k: int = 20
    temperature: float = 0.07
    pool: Pool = "avg"
    layer: int = -1
    kind: ClassVar[str] = "knn"

    @property
    def least(self) -> int:
        """As many as are to vote."""
        return self.k

    def judge(self, train: Views, val: Views, num_layers: int) -> Figures:
        """``accuracy/knn``."""
        (view,) = self.views(num_layers)
        accuracy = knn_accuracy(val[view], train[view], self.k, self.temperature)
        return {f"accuracy/{self.name}": accuracy}


@register("task_util")
@dataclass(frozen=True)
class LinearProbe(_OfVectors):
    """A linear classifier, :func:`saim_mm.evaluation.linear_probe`.

    Attributes:
        layer: Also ``best``, which tries all on training images that are held out
            (:func:`saim_mm.evaluation.best_layer_probe`).
        held_out_share: Share of each class to choose the best layer by.
        recipe: How it learns; as a dict, options of ``ProbeRecipe``.
    """

    pool: Pool = "avg"
    layer: int | Literal["best"] = -1
    held_out_share: float = 0.1
    recipe: ProbeRecipe | dict[str, Any] = field(default_factory=ProbeRecipe)
    kind: ClassVar[str] = "linear"
    least: ClassVar[int] = 4  # some are held out

    def __post_init__(self) -> None:
        if isinstance(self.layer, str) and self.layer != "best":
            raise ValueError(f"layer={self.layer!r} must be a number or 'best'.")
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share={self.held_out_share} must be in (0, 1).")
        if not isinstance(self.recipe, ProbeRecipe):
            object.__setattr__(self, "recipe", ProbeRecipe(**self.recipe))

    def judge(self, train: Views, val: Views, num_layers: int) -> Figures:
        """``accuracy/linear``; of the best layer, ``accuracy/linear_best``.

        With it go ``linear_best/layer``, counted from 0, and for each layer its
        accuracy on what was held out, ``linear_best/held_out_layer_00`` and so on.
        """
        assert isinstance(self.recipe, ProbeRecipe)
        views, name = self.views(num_layers), f"accuracy/{self.name}"
        if self.layer != "best":
            result = linear_probe(train[views[0]], val[views[0]], self.recipe)
            return {name: result.accuracy}
        learnt, judged = ([part[view] for view in views] for part in (train, val))
        curve = best_layer_probe(learnt, judged, self.recipe, self.held_out_share)
        layer = {f"{self.name}/layer": float(curve.best)}
        held_out = {
            f"{self.name}{_HELD_OUT}{i:02d}": x for i, x in enumerate(curve.held_out)
        }
        return {name: curve.accuracy, **layer, **held_out}


@register("task_util")
@dataclass(frozen=True)
class AttentiveProbe:
    """A learnt pooling of the patches, :func:`saim_mm.evaluation.attentive_probe`.

    Attributes:
        kind: ``aim``, or ``efficient``, which has half of its parameters.
        blocks: It reads the mean of the last so many layers, at most of all. By default
            six for ``aim``, as there, and one for ``efficient``.
        parts: Heads of ``aim``, queries of ``efficient``. By default a head for each 64
            channels, and 32 queries or as many as divide the channels.
        rates: Learning rates at a batch of 256, of which the best on held-out training
            images is taken.
        recipe: All else of how it learns; as a dict, options of ``AttentiveRecipe``.
    """

    kind: Literal["aim", "efficient"] = "aim"
    blocks: int | None = None
    parts: int | None = None
    rates: Sequence[float] = (1e-3, 3e-3, 1e-2)
    recipe: AttentiveRecipe | dict[str, Any] = field(default_factory=AttentiveRecipe)
    least: ClassVar[int] = 4  # some are held out

    def __post_init__(self) -> None:
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"rates={self.rates} must be positive, such as [3e-3].")
        if self.kind not in ("aim", "efficient"):
            raise ValueError(f"kind={self.kind!r} must be 'aim' or 'efficient'.")
        if self.blocks is not None and self.blocks < 1:
            raise ValueError(f"blocks={self.blocks} must be at least 1, the last one.")
        if not isinstance(self.recipe, AttentiveRecipe):
            object.__setattr__(self, "recipe", AttentiveRecipe(**self.recipe))

    @property
    def name(self) -> str:
        """``attentive`` or ``efficient``."""
        return "attentive" if self.kind == "aim" else "efficient"

    def views(self, num_layers: int) -> list[View]:
        """One."""
        blocks = self.blocks or (6 if self.kind == "aim" else 1)
        return [View(tuple(range(num_layers))[-blocks:], "patches")]

    def judge(self, train: Views, val: Views, num_layers: int) -> Figures:
        """``accuracy/attentive`` and ``attentive/rate``, or those of ``efficient``."""
        assert isinstance(self.recipe, AttentiveRecipe)
        (view,) = self.views(num_layers)
        width = train[view].vectors.shape[-1]
        pool: AttentivePool | EfficientPool
        if self.kind == "aim":
            pool = AttentivePool(width, self.parts or max(1, width // 64))
        else:
            pool = EfficientPool(width, self.parts or math.gcd(width, 32))
        recipe = choose_rate(pool, train[view], self.rates, self.recipe)
        result = attentive_probe(pool, train[view], val[view], recipe)
        figure, rate = f"accuracy/{self.name}", f"{self.name}/rate"
        return {figure: result.accuracy, rate: recipe.base_lr}


@register("task_util")
@dataclass(frozen=True)
class RankMeProbe(_OfVectors):
    """How many directions features use, :func:`saim_mm.evaluation.rankme`."""

    pool: Pool = "avg"
    layer: int = -1
    kind: ClassVar[str] = "rankme"
    least: ClassVar[int] = 2

    def judge(self, train: Views, val: Views, num_layers: int) -> Figures:
        """``rankme``, of the training images, whose labels it does not read."""
        (view,) = self.views(num_layers)
        return {self.name: rankme(train[view].vectors)}


#: What tools offer, by name.
KNOWN_PROBES: dict[str, dict[str, Any]] = {
    "knn": dict(type="KNNProbe"),
    "linear": dict(type="LinearProbe"),
    "linear-best": dict(type="LinearProbe", layer="best"),
    "attentive": dict(type="AttentiveProbe"),
    "efficient": dict(type="AttentiveProbe", kind="efficient"),
    "rankme": dict(type="RankMeProbe"),
}


def check_enough(probes: Sequence[Probe], number: int) -> None:
    """Refuses probes that need more images to learn from than there are.

    Raises:
        ValueError: If one does.
    """
    for probe in probes:
        if probe.least > number:
            raise ValueError(
                f"{probe} needs {probe.least} images to learn from, more than the "
                f"{number} images that there are; ask for less, leave it out, or give "
                "more images."
            )


def run_probes(
    probes: Sequence[Probe], train: Views, val: Views, num_layers: int
) -> Figures:
    """The figures of several probes.

    Raises:
        ValueError: As for one of them.
    """
    figures: Figures = {}
    for probe in probes:
        figures.update(probe.judge(train, val, num_layers))
    return figures


def build_probes(configs: Sequence[str | dict[str, Any]]) -> list[Probe]:
    """Builds probes of names in :data:`KNOWN_PROBES`, or of configs with a ``type``.

    Raises:
        ValueError: If there is none, a name or option is unknown, or two have the same
            name.
    """
    if not configs:
        raise ValueError(f"probes is empty; name some of {list(KNOWN_PROBES)}.")
    for config in configs:
        if isinstance(config, str) and config not in KNOWN_PROBES:
            raise ValueError(
                f"probe {config!r} is unknown; choose of {list(KNOWN_PROBES)}, or give "
                "dict(type=...)."
            )
    probes: list[Probe] = [
        TASK_UTILS.build(KNOWN_PROBES[config] if isinstance(config, str) else config)
        for config in configs
    ]
    names = [probe.name for probe in probes]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Two of the probes {names} have the same name; leave one of them out, or "
            "let it read another pool or layer."
        )
    return probes


def named_probes(
    names: Sequence[str], pool: Pool = "avg", layer: int = -1
) -> list[Probe]:
    """Probes by name; those of one vector per image read this pool and layer.

    Raises:
        ValueError: As for :func:`build_probes`, or if none of them reads a layer or
            pool that is asked for.
    """
    probes = []
    read_pool, read_layer = pool == "avg", layer == -1
    for probe in build_probes(names):
        options: dict[str, Any] = {}
        if hasattr(probe, "pool"):
            options["pool"], read_pool = pool, True
        if getattr(probe, "layer", "best") != "best":
            options["layer"], read_layer = layer, True
        probes.append(dataclasses.replace(probe, **options))  # type: ignore[type-var]
    if not (read_pool and read_layer):
        raise ValueError(
            f"pool={pool!r} and layer={layer} are for probes of one vector per image; "
            f"none of {list(names)} is read so."
        )
    return probes


def views_of(probes: Sequence[Probe], num_layers: int) -> set[View]:
    """All that some probes read."""
    return {view for probe in probes for view in probe.views(num_layers)}


def curves_of(figures: Figures) -> dict[str, list[float]]:
    """Of each probe of the best layer, by its name, the accuracies by depth."""
    curves: dict[str, list[float]] = {}
    for name in sorted(figures):
        probe, found, _ = name.partition(_HELD_OUT)
        if found:
            curves.setdefault(probe, []).append(figures[name])
    return curves
