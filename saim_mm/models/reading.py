"""How much of an order is read in a training step, and which patches are asked for.

The paper reads all N patches and asks for all. A reading reads the first R = M of them
and asks for K; the encoder runs over those M only. It is the same for all images of a
batch, and for all processes.

What it estimates. Let f(c) be the loss of one patch that is seen from c others, in the
mean over orders and patches; the paper's loss is L = (f(0) + ... + f(N-1)) / N. The
states of the first M tokens do not depend on what comes after them, and queries do not
see each other. So a query at rank t < M has exactly its loss in the whole model, f(t)
in the mean; one at rank t >= M is predicted from all M, and as every patch that was not
read is equally likely to come next, its mean is f(M) whatever t is. Hence

* :class:`CutReading`: M uniform on 0..N-1, asked after it: **L**, unbiased.
* :class:`StrataReading`: one of S equal stretches of ranks, each with probability 1/S:
  **L**, unbiased, for each order by itself, so for raster order too.
* :class:`FixedReading`: **(f(0) + ... + f(M-1) + (N-M) f(M)) / N**, or f(M) alone if
  asked after M. That is another loss, greater than L where f falls with c, with the
  weight on small contexts, as in MAE. With M = N: L.
* Any K of the ranks that may be asked for, uniform or stratified: the mean over all of
  them, unbiased.
* ``content="all"``, and a prefix that sees itself (``PrefixReading``): the encoder sees
  otherwise, so each f is another function.

Gradients are unbiased where the loss is. Adam is not linear in them, so a reading may
want another learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..registry import register
from ..utils.check_choice import check_choice
from .order import OrderSampler, Scope

Content = Literal["causal", "all"]


@register("model")
@dataclass(frozen=True)
class FixedReading:
    """The first patches of an order, always as many.

    With ``content="all"`` and ``asks="after"`` this is the scheme of CrossMAE.

    Args:
        read: M, how many patches are read.
        asked: K, how many of the ranks that may be asked for; by default all.
        asks: ``all`` ranks, or those ``after`` what is read.
        content: Whether a token that is read sees those before it, or all that are.
        stratified: Whether one rank is asked for in each of K equal strata.

    Raises:
        ValueError: If the options do not fit each other; when used, if the orders or
            the number of patches do not suit.
    """

    read: int
    asked: int | None = None
    asks: Literal["all", "after"] = "all"
    content: Content = "causal"
    stratified: bool = False

    def __post_init__(self) -> None:
        check_choice("content", self.content, get_args(Content))
        check_choice("asks", self.asks, ("all", "after"))
        if self.content == "all" and self.asks == "all":
            raise ValueError(
                "content='all' with asks='all': what is read sees all that is read, so "
                "it would give its own patches away; set asks='after'."
            )

    def scopes(self, family: OrderSampler) -> list[Scope]:
        """The only one."""
        total, read, after = family.num_patches, self.read, self.asks == "after"
        if read < total:
            check_exchangeable(self, family)
        check_whole_segments("read", read, range(total + 1 - after), family)
        allowed = range(read if after else 0, total)
        asked = len(allowed) if self.asked is None else self.asked
        if not 1 <= asked <= len(allowed) or (self.stratified and len(allowed) % asked):
            raise ValueError(
                f"asked={asked}: there are {len(allowed)} ranks to ask for. Set at "
                "least 1 and at most all of them; with stratified=True a divisor."
            )
        prefix = read if self.content == "all" else 0
        return [Scope(read, allowed, asked, prefix, self.stratified)]


@register("model")
@dataclass(frozen=True)
class CutReading:
    """An order cut anywhere, asked after the cut: the paper's loss at MAE's cost.

    Args:
        asked: K, how many patches are asked for; all that there are if there are less.
        content: As for :class:`FixedReading`.

    Raises:
        ValueError: If K is less than 1; when used, if the orders do not suit.
    """

    asked: int
    content: Content = "causal"

    def __post_init__(self) -> None:
        check_choice("content", self.content, get_args(Content))
        if self.asked < 1:
            raise ValueError(f"asked={self.asked} must be at least 1.")

    def scopes(self, family: OrderSampler) -> list[Scope]:
        """One for each place between two segments."""
        check_exchangeable(self, family)
        total = family.num_patches
        return [
            Scope(
                read=cut,
                allowed=range(cut, total),
                asked=min(self.asked, total - cut),
                prefix=cut if self.content == "all" else 0,
            )
            for cut in range(0, total, family.segment_length)
        ]


@register("model")
@dataclass(frozen=True)
class StrataReading:
    """One of equal stretches of ranks, all of it asked for; read up to its end.

    There are few shapes, which compiled code likes.

    Args:
        strata: S, how many stretches the order has.

    Raises:
        ValueError: When used, if S does not divide the segments of an order.
    """

    strata: int

    def scopes(self, family: OrderSampler) -> list[Scope]:
        """One for each stretch."""
        total, length = family.num_patches, family.segment_length
        if self.strata < 1 or total // length % self.strata:
            raise ValueError(
                f"strata={self.strata} must divide the {total // length} segments (or "
                "single patches) of an order."
            )
        size = total // self.strata
        # What is asked for last is read by nobody.
        return [
            Scope(start + size - length, range(start, start + size), size)
            for start in range(0, total, size)
        ]


def check_exchangeable(reading: object, family: OrderSampler) -> None:
    """Refuses an order in which some patches would never be read."""
    if not family.exchangeable:
        raise ValueError(
            f"{type(reading).__name__} needs an order in which every patch is equally "
            "likely to come next: in another some are never read. Set order="
            "'stochastic' or 'segments' (segment_order='random'), or StrataReading."
        )


def check_whole_segments(
    name: str, value: int, allowed: range, family: OrderSampler
) -> None:
    """Refuses a number of patches that cuts a segment in two, or is out of range."""
    length = family.segment_length
    if not isinstance(value, int) or value not in allowed or value % length:
        raise ValueError(
            f"{name}={value!r} must be a multiple of {length}, the patches of a "
            f"segment, between {allowed.start} and {allowed.stop - 1}."
        )
