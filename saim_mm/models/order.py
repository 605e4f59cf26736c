"""The orders in which patches are predicted, and how much of one is read and asked for.

Words and conventions: :mod:`saim_mm.models.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from mmengine.dist import get_rank
from torch import Tensor, nn

from ..utils.check_choice import check_choice
from ..utils.sample_index import SampleIndex, Stream
from ..utils.sample_keys import keys_of, step_key
from ..utils.splitmix64 import hash_keys
from .plan import Plan, make_plan

OrderKind = Literal["stochastic", "raster", "segments"]
SegmentOrder = Literal["random", "raster"]


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


class SegmentSequence(Protocol):
    """In which sequence segments come, if neither any nor row by row."""

    def numbers(self, grid: tuple[int, int]) -> int:
        """How many random numbers it takes for so many rows and columns of segments."""

    def sort(self, r: Tensor, grid: tuple[int, int]) -> Tensor:
        """Random numbers (B, numbers) -> sequence of segments (B, segments)."""


class OrderSampler(nn.Module):
    """A family of prediction orders over a grid of patches, and the plans they make.

    Patches are grouped in segments of equal size; the segments come in some sequence,
    and the patches of one segment are predicted together:

    * ``stochastic`` (the paper): every patch is its own segment, uniformly shuffled.
    * ``raster`` (iGPT, ViT-iGPT): every patch is its own segment, row by row.
    * ``segments`` (RandSAC): rectangular segments, uniformly shuffled, or row by row
      (XTRA), or as a part says. The patches of a segment see each other in the content
      stream, and are predicted from earlier segments only.

    Args:
        kind: The member of the family.
        grid: Rows and columns of the patch grid.
        segment_size: Rows and columns of a segment, in patches; for ``segments`` only.
        query_share: Share of the ranks that a drawn plan asks for, in (0, 1].
        extra_tokens: E, the tokens in front of the patches.
        reading: What drawn plans read and ask; by default all is read.
        segment_order: Sequence of the segments: ``random``, ``raster`` or a part.

    Raises:
        ValueError: If the kind is unknown, the segments do not tile the grid, the share
            is none or the reading does not fit.
    """

    patches_of_segment: Tensor  # (segments, L): raster indices of a segment's patches

    def __init__(
        self,
        kind: OrderKind,
        grid: tuple[int, int],
        segment_size: tuple[int, int] | None = None,
        query_share: float = 1.0,
        extra_tokens: int = 1,
        reading: Reading | None = None,
        segment_order: SegmentOrder | SegmentSequence = "random",
    ) -> None:
        super().__init__()
        check_choice("order", kind, get_args(OrderKind))
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
        segment_size = _check_segments(kind, grid, segment_size, segment_order)
        self.kind = kind
        self.segment_order = "raster" if kind == "raster" else segment_order
        self.num_patches = grid[0] * grid[1]
        self.segment_length = segment_size[0] * segment_size[1]
        self.query_share = query_share
        self.extra_tokens = extra_tokens

        raster = torch.arange(self.num_patches).view(grid)
        tiles = raster.unfold(0, segment_size[0], segment_size[0])
        tiles = tiles.unfold(1, segment_size[1], segment_size[1])
        self.segment_grid = (tiles.shape[0], tiles.shape[1])
        patches = tiles.reshape(-1, self.segment_length)
        self.register_buffer("patches_of_segment", patches, persistent=False)
        self._numbers = len(patches)  # random ones that an order takes
        if not isinstance(segment_order, str):
            self._numbers = segment_order.numbers(self.segment_grid)

        everything = range(self.num_patches)
        share = max(1, round(query_share * self.num_patches))
        self.scopes = [Scope(self.num_patches, everything, share)]
        if reading is not None:
            self.scopes = reading.scopes(self)

    @property
    def exchangeable(self) -> bool:
        """Whether every patch that is left is equally likely to come next."""
        return self.segment_order == "random"

    def plan(
        self,
        batch_size: int,
        device: torch.device,
        order: Tensor | None = None,
        indices: Sequence[SampleIndex] | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """Draws what is not given, the order first; an option that is off, nothing.

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
        keys = key = None
        if order is not None:
            order = self.check(order.to(device), batch_size)
        else:
            if indices is not None:
                keys = keys_of(indices, Stream.ORDER, device)
            order = self.draw(batch_size, device, generator, keys)
        scope = self.draw_scope(generator, indices)
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

        By torch's global generator of the CPU, unless another is given; with the
        indices of the samples it follows from seed and iteration.
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
        return next(s for s in self.scopes if (ticket := ticket - s.weight) < 0)

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
        if self.segment_order == "raster":
            segments = torch.arange(num_segments, device=device)
            segments = segments.expand(batch_size, num_segments)
        else:
            shape = batch_size, self._numbers
            r = _random_numbers(shape, device, generator, keys)
            if isinstance(self.segment_order, str):
                segments = r.argsort(dim=1, stable=keys is not None)
            else:
                segments = self.segment_order.sort(r, self.segment_grid)
        return self.patches_of_segment[segments].flatten(1)

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
        r = _random_numbers((1, len(allowed)), device, generator, key)[0]
        if stratified:
            strata = r.view(count, -1)
            starts = torch.arange(0, len(allowed), strata.shape[1], device=device)
            return starts + strata.argmin(dim=1) + allowed.start
        return r.argsort(stable=True)[:count].sort().values + allowed.start

    def check(self, order: Tensor, batch_size: int) -> Tensor:
        """Returns an order that somebody else made, if it is one.

        Raises:
            ValueError: If the shape or type is wrong, or, on the CPU, a row is no
                permutation; on a GPU that would stop the host at every step.
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


def check_tiles(
    name: str, size: tuple[int, int] | None, grid: tuple[int, int], unit: str = "patch"
) -> tuple[int, int]:
    """Returns the rows and columns of tiles, if they tile the grid.

    Raises:
        ValueError: If not.
    """
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(
            f"order='segments' needs {name}=(rows, columns), not {size!r}."
        )
    rows, columns = size
    if rows < 1 or columns < 1 or grid[0] % rows or grid[1] % columns:
        raise ValueError(
            f"{name}={tuple(size)} does not tile the {unit} grid {grid}; "
            f"rows must divide {grid[0]} and columns {grid[1]}."
        )
    return (rows, columns)


def _check_segments(
    kind: OrderKind,
    grid: tuple[int, int],
    size: tuple[int, int] | None,
    segment_order: SegmentOrder | SegmentSequence,
) -> tuple[int, int]:
    """Returns the size of a segment, if all options of segments fit."""
    known = get_args(SegmentOrder)
    if isinstance(segment_order, str) and segment_order not in known:
        raise ValueError(
            f"segment_order={segment_order!r} is unknown; choose one of {known}, or a "
            "part such as dict(type='HierarchicalSegments', group_size=(2, 2))."
        )
    if kind == "segments":
        return check_tiles("segment_size", size, grid)
    for name, given, off in (
        ("segment_size", size, None),
        ("segment_order", segment_order, "random"),
    ):
        if given != off:
            raise ValueError(
                f"{name}={given!r} has no meaning with order={kind!r}; drop it or set "
                "order='segments'."
            )
    return (1, 1)


def _random_numbers(
    shape: tuple[int, int],
    device: torch.device,
    generator: torch.Generator | None,
    keys: Tensor | None,
) -> Tensor:
    """Of keys, one for each row, or else of a generator, by default one for this draw.

    Its seed comes from torch's global CPU generator, so seeding the run fixes every
    order and no state is hidden here; drawing it on the CPU does not wait for a GPU.
    The rank is added because MMEngine seeds all ranks alike by default.
    """
    if keys is not None:
        return hash_keys(keys, shape[1])
    if generator is None:
        seed = int(torch.randint(2**62, ()).item())
        generator = torch.Generator(device).manual_seed(seed + get_rank())
    return torch.rand(shape, device=device, generator=generator)
