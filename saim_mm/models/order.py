"""The orders in which patches are predicted, and how much of one is read and asked for.

Words and conventions: :mod:`saim_mm.models.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from mmengine.dist import get_rank
from torch import Tensor, nn

from ..utils.sample_index import SampleIndex, Stream
from ..utils.sample_keys import keys_of, step_key
from ..utils.splitmix64 import hash_keys
from .plan import Plan, make_plan

OrderKind = Literal["stochastic", "raster", "segments"]
SegmentOrder = Literal["random", "raster", "hierarchical"]


class Scope(NamedTuple):
    """How much of an order is read, and what is asked; the same for a whole batch.

    Attributes:
        read: R, of whole segments.
        allowed: Ranks that may be asked for.
        asked: K of them are drawn.
        prefix: P, of whole segments.
        stratified: Whether one rank of each of K equal strata of ``allowed`` is drawn,
            instead of any K of them.
        weight: How often it is drawn beside the other scopes of a reading.
    """

    read: int
    allowed: range
    asked: int
    prefix: int = 0
    stratified: bool = False
    weight: int = 1


class Reading(Protocol):
    """What may be read and asked; see :mod:`saim_mm.models.reading`."""

    def scopes(self, family: OrderSampler) -> list[Scope]:
        """All that can be drawn for a family of orders."""


class OrderSampler(nn.Module):
    """A family of prediction orders over a grid of patches, and the plans they make.

    Patches are grouped in segments of equal size; the segments come in some sequence,
    and the patches of one segment are predicted together:

    * ``stochastic`` (the paper): every patch is its own segment, uniformly shuffled.
    * ``raster`` (iGPT, ViT-iGPT): every patch is its own segment, row by row.
    * ``segments`` (RandSAC): rectangular segments, uniformly shuffled, or row by row
      (XTRA), or group by group, shuffled within each. The patches of a segment see each
      other in the content stream, and are predicted from earlier segments only.

    Args:
        kind: The member of the family.
        grid: Rows and columns of the patch grid.
        segment_size: Rows and columns of a segment, in patches; for ``segments`` only.
        query_share: Share of the ranks that a drawn plan asks for, in (0, 1].
        extra_tokens: E, the tokens in front of the patches.
        reading: What drawn plans read and ask; by default all is read.
        segment_order: Sequence of the segments: ``random``, ``raster`` or
            ``hierarchical``, rectangular groups of segments at random.
        group_size: Rows and columns of a group, in segments; for ``hierarchical`` only.

    Raises:
        ValueError: If the kind is unknown, the segments do not tile the grid, the share
            is none or the reading does not fit.
    """

    patches_of_segment: Tensor  # (segments, L): raster indices of a segment's patches
    group_of_segment: Tensor  # (segments,): its group; of the hierarchical order only

    def __init__(
        self,
        kind: OrderKind,
        grid: tuple[int, int],
        segment_size: tuple[int, int] | None = None,
        query_share: float = 1.0,
        extra_tokens: int = 1,
        reading: Reading | None = None,
        segment_order: SegmentOrder = "random",
        group_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if kind not in get_args(OrderKind):
            raise ValueError(
                f"order={kind!r} is unknown; choose one of {get_args(OrderKind)}."
            )
        if not 0 < query_share <= 1:
            raise ValueError(
                f"query_share={query_share} must be greater than 0 and at most 1; 1 "
                "predicts every patch at every step."
            )
        if reading is not None and query_share < 1:
            raise ValueError(
                f"query_share={query_share} has no meaning beside a reading; drop it "
                "and set the reading's own 'asked'."
            )
        segment_size = _check_segment_size(kind, grid, segment_size)
        self.kind = kind
        self.segment_order = segment_order
        self.num_patches = grid[0] * grid[1]
        self.segment_length = segment_size[0] * segment_size[1]
        self.query_share = query_share
        self.extra_tokens = extra_tokens

        raster = torch.arange(self.num_patches).view(grid)
        tiles = raster.unfold(0, segment_size[0], segment_size[0])
        tiles = tiles.unfold(1, segment_size[1], segment_size[1])
        patches = tiles.reshape(-1, self.segment_length)
        self.register_buffer("patches_of_segment", patches, persistent=False)

        groups = _groups(kind, segment_order, grid, segment_size, group_size)
        self.register_buffer("group_of_segment", groups, persistent=False)
        self.num_groups = 0
        if group_size is not None:
            self.num_groups = len(groups) // (group_size[0] * group_size[1])

        everything = range(self.num_patches)
        share = max(1, round(query_share * self.num_patches))
        self.scopes = [Scope(self.num_patches, everything, share)]
        if reading is not None:
            self.scopes = reading.scopes(self)

    @property
    def exchangeable(self) -> bool:
        """Whether every patch that is left is equally likely to come next."""
        return self.kind != "raster" and self.segment_order == "random"

    def plan(
        self,
        batch_size: int,
        device: torch.device,
        order: Tensor | None = None,
        indices: Sequence[SampleIndex] | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """Draws what is not given, the order first.

        An option that is off draws nothing.

        Args:
            batch_size: Number of images B.
            device: Where the plan is needed.
            order: (B, N); by default drawn.
            indices: Those of the samples: what is drawn is a function of them then. The
                first sample of a batch decides which ranks are asked for, and the
                iteration how much is read.
            generator: As for :meth:`draw`.

        Raises:
            ValueError: If ``order`` is none.
        """
        if order is None:
            keys = None
            if indices is not None:
                keys = keys_of(indices, Stream.ORDER, device)
            order = self.draw(batch_size, device, generator, keys)
        else:
            order = self.check(order.to(device), batch_size)
        scope = self.draw_scope(generator, indices)
        key = None
        if indices is not None and scope.asked < len(scope.allowed):
            key = keys_of(indices[:1], Stream.QUERY_STEPS, device)
        ranks = self.draw_ranks(device, generator, key, scope)
        lowest = scope.allowed.start
        return self.plan_of(order, ranks, scope.read, scope.prefix, lowest)

    def plan_of(
        self,
        order: Tensor,
        query_ranks: Tensor | range | None = None,
        read: int | None = None,
        prefix: int = 0,
        lowest: int = 0,
    ) -> Plan:
        """The plan of an order (B, N); as :func:`saim_mm.models.plan.make_plan`."""
        assert order.shape[1] == self.num_patches
        own = self.segment_length, self.extra_tokens
        return make_plan(order, *own, query_ranks, read, prefix, lowest)

    def draw_scope(
        self,
        generator: torch.Generator | None = None,
        indices: Sequence[SampleIndex] | None = None,
    ) -> Scope:
        """Draws how much is read; the same on all processes, so that none waits.

        Args:
            generator: By default torch's global one of the CPU.
            indices: Those of the samples: the scope follows from seed and iteration.
        """
        if len(self.scopes) == 1:
            return self.scopes[0]
        total = sum(scope.weight for scope in self.scopes)
        if indices is not None:
            ticket = step_key(indices, Stream.SCOPE) % total
        else:
            device = "cpu" if generator is None else generator.device
            number = torch.randint(total, (), generator=generator, device=device)
            ticket = int(number.item())
        for scope in self.scopes:
            ticket -= scope.weight
            if ticket < 0:
                break
        return scope

    def draw(
        self,
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Draws one order per image.

        Args:
            batch_size: Number of images B.
            device: Where the order is needed.
            generator: Source of randomness on that device. By default one that follows
                from torch's global CPU seed and differs between ranks and steps.
            keys: (B,) long, on the device. An image's order is a function of its key
                then, whatever it is drawn together with, and no generator is used.

        Returns:
            Order (B, N), long.
        """
        num_segments = len(self.patches_of_segment)
        count = num_segments + self.num_groups
        if self.kind == "raster" or self.segment_order == "raster":
            segments = torch.arange(num_segments, device=device)
            segments = segments.expand(batch_size, num_segments)
        elif keys is not None:
            segments = self._sort_segments(hash_keys(keys, count), stable=True)
        else:
            if generator is None:
                generator = _step_generator(device)
            r = torch.rand(batch_size, count, device=device, generator=generator)
            segments = self._sort_segments(r)
        return self.patches_of_segment[segments].flatten(1)

    def _sort_segments(self, r: Tensor, stable: bool = False) -> Tensor:
        """Random numbers (B, segments + groups) -> sequence of segments."""
        if not self.num_groups:
            return r.argsort(dim=1, stable=stable)
        count = len(self.group_of_segment)
        within = r[:, :count].argsort(dim=1, stable=True).argsort(dim=1)
        group = r[:, count:].argsort(dim=1, stable=True).argsort(dim=1)
        return (group[:, self.group_of_segment] * count + within).argsort(dim=1)

    def draw_ranks(
        self,
        device: torch.device,
        generator: torch.Generator | None = None,
        key: Tensor | None = None,
        scope: Scope | None = None,
    ) -> Tensor | range | None:
        """Draws the ranks that are asked for; all subsets are equally likely.

        Args:
            device: Where they are needed.
            generator: As in :meth:`draw`.
            key: (1,) long, on the device; the ranks are a function of it then.
            scope: What may be asked for; by default that of the only one there is.

        Returns:
            Ranks (K,), rising; a range, or ``None``, for all that may be asked.
        """
        _, allowed, count, _, stratified, _ = scope or self.scopes[0]
        if count == len(allowed):
            return None if count == self.num_patches else allowed
        if key is not None:
            r = hash_keys(key, len(allowed))[0]
        else:
            if generator is None:
                generator = _step_generator(device)
            r = torch.rand(len(allowed), device=device, generator=generator)
        if stratified:
            strata = r.view(count, -1)
            starts = torch.arange(0, len(allowed), strata.shape[1], device=device)
            return starts + strata.argmin(dim=1) + allowed.start
        return r.argsort(stable=True)[:count].sort().values + allowed.start

    def check(self, order: Tensor, batch_size: int) -> Tensor:
        """Returns an order that somebody else made, if it is one.

        Whether each row is a permutation is checked on the CPU only; on a GPU the check
        would stop the host at every step.

        Raises:
            ValueError: If the shape or type is wrong, or a row is no permutation.
        """
        expected = (batch_size, self.num_patches)
        if tuple(order.shape) != expected or order.dtype != torch.long:
            raise ValueError(
                f"order has shape {tuple(order.shape)} and type {order.dtype}; it must "
                f"be a torch.long tensor of shape {expected}: images x patches."
            )
        if order.device.type == "cpu":
            raster = torch.arange(self.num_patches).expand(expected)
            if not torch.equal(order.sort(dim=1).values, raster):
                raise ValueError(
                    "order has a row that is not a permutation of "
                    f"0..{self.num_patches - 1}; e.g. torch.randperm makes one."
                )
        return order


#: The old name of :class:`OrderSampler`; it goes with version 0.3.
PatchOrder = OrderSampler


def _check_segment_size(
    kind: OrderKind,
    grid: tuple[int, int],
    segment_size: tuple[int, int] | None,
    name: str = "segment_size",
) -> tuple[int, int]:
    if kind != "segments":
        if segment_size is not None:
            raise ValueError(
                f"segment_size={segment_size} has no meaning with order={kind!r}; "
                "drop it or set order='segments'."
            )
        return (1, 1)
    if not isinstance(segment_size, (tuple, list)) or len(segment_size) != 2:
        raise ValueError(
            "order='segments' needs segment_size=(rows, columns) in patches, not "
            f"{segment_size!r}."
        )
    rows, columns = segment_size
    if rows < 1 or columns < 1 or grid[0] % rows or grid[1] % columns:
        raise ValueError(
            f"{name}={tuple(segment_size)} does not tile the "
            f"{'patch' if name == 'segment_size' else 'segment'} grid {grid}; "
            f"rows must divide {grid[0]} and columns {grid[1]}."
        )
    return (rows, columns)


def _groups(
    kind: OrderKind,
    segment_order: SegmentOrder,
    grid: tuple[int, int],
    segment_size: tuple[int, int],
    group_size: tuple[int, int] | None,
) -> Tensor:
    """The group of each segment, (segments,); empty if the order has none."""
    if segment_order not in get_args(SegmentOrder):
        raise ValueError(
            f"segment_order={segment_order!r} is unknown; choose one of "
            f"{get_args(SegmentOrder)}."
        )
    if segment_order != "random" and kind != "segments":
        raise ValueError(
            f"segment_order={segment_order!r} has no meaning with order={kind!r}; drop "
            "it or set order='segments'."
        )
    if (segment_order == "hierarchical") != (group_size is not None):
        raise ValueError(
            f"group_size={group_size} with segment_order={segment_order!r}: a "
            "'hierarchical' order needs group_size=(rows, columns) in segments, and "
            "no other has one."
        )
    if group_size is None:
        return torch.empty(0, dtype=torch.long)
    segments = (grid[0] // segment_size[0], grid[1] // segment_size[1])
    rows, columns = _check_segment_size("segments", segments, group_size, "group_size")
    row, column = torch.meshgrid(*map(torch.arange, segments), indexing="ij")
    return (row // rows * (segments[1] // columns) + column // columns).flatten()


def _step_generator(device: torch.device) -> torch.Generator:
    """A generator for one draw.

    The seed comes from torch's global CPU generator, so seeding the run fixes every
    order and no state is hidden here; drawing it on the CPU does not wait for a GPU.
    The rank is added because MMEngine seeds all ranks alike by default.
    """
    seed = int(torch.randint(2**62, ()).item())
    return torch.Generator(device).manual_seed(seed + get_rank())
