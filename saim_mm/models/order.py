"""Who predicts what from what: the order of the patches, and the plan of a batch.

This is the one file that knows how a sequence is sorted and put back, and who may see
whom in it.

Conventions, used everywhere (B images, N patches, R of them read by the encoder, K
asked for, E extra tokens, such as the class token, in front of all patches):

* ``order`` is a long tensor (B, N); ``order[b, t]`` is the raster index of the patch of
  *rank* ``t`` (the paper's z_t).
* "sorted" means in that order. The content sequence is ``[extra, z_1, ..., z_R]``, the
  queries are those of the ranks that are asked for, ``[z_1, ..., z_N]`` in the paper.
* A mask is boolean and ``True`` means "sees".

Why sort at all: once its position embedding is added, a token does not know where it
stands in the sequence. Sorted by the order, the paper's irregular content mask (Eq. 3)
is the lower triangle over the content tokens, and its query mask (Eq. 5) the lower
triangle between the N queries and the *first* N content tokens. So plain causal
attention does it, and no mask is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from mmengine.dist import get_rank
from torch import Tensor, nn

from ..utils.sample_index import SampleIndex, Stream
from ..utils.sample_keys import keys_of, step_key
from ..utils.splitmix64 import hash_keys

OrderKind = Literal["stochastic", "raster", "segments"]
SegmentOrder = Literal["random", "raster", "hierarchical"]


class Mask(NamedTuple):
    """What attending tokens see; the arguments of ``scaled_dot_product_attention``.

    Attributes:
        attn_mask: Boolean (L, S), ``True`` means "sees".
        is_causal: Whether each token sees those at and before its own place. Where
            fewer attend than are attended to, theirs are the last places.
        prefix: With ``is_causal``: so many tokens in front all see each other.
    """

    attn_mask: Tensor | None = None
    is_causal: bool = False
    prefix: int = 0

    def dense(self, rows: int, columns: int) -> Tensor:
        """The mask written out, boolean (rows, columns), on the CPU."""
        if self.attn_mask is not None:
            return self.attn_mask.cpu()
        sees = torch.ones(rows, columns, dtype=torch.bool)
        if self.is_causal:
            sees = sees.tril(columns - rows)
            sees[: self.prefix, : self.prefix] = True
        return sees


SEES_ALL, CAUSAL = Mask(), Mask(is_causal=True)


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


@dataclass(frozen=True, eq=False)
class Plan:
    """Who predicts what from what in a batch; made once, by :class:`OrderSampler`.

    With ``first(t)`` the first rank of the segment of rank ``t`` (``t`` itself where
    every patch is its own segment) and a prefix of P patches, 0 in the paper:

    * Content: an extra token sees those up to itself; the patch of rank i sees all
      extra tokens and every rank j with ``first(j) <= first(i)``. Extra tokens and the
      patches of the prefix also all see each other.
    * Memory: the query of rank t sees all extra tokens and the ranks below
      ``max(first(t), P)`` that were read.
    * Query: i sees j if ``first(j) <= first(i)``, and j was read or is of i's own
      segment: what is predicted at the same time does not help each other.

    Attributes:
        order: (B, N), long.
        asked: (B, K), long: raster indices of the patches that are predicted.
        query_ranks: (K,), long, rising: their ranks, the same for all images; ``None``
            for all.
        num_read: R, how many patches the encoder reads, the first of the order.
        extra_tokens: E.
        content_mask: (E + R, E + R): what content tokens see of each other.
        memory_mask: (K, S): what queries see of the first S content tokens.
        segment_length: L, patches of a segment.
    """

    order: Tensor
    asked: Tensor
    query_ranks: Tensor | None
    num_read: int
    extra_tokens: int
    content_mask: Mask
    memory_mask: Mask
    segment_length: int

    @property
    def read(self) -> Tensor:
        """Raster indices (B, R) of the patches that the encoder reads, sorted."""
        return self.order[:, : self.num_read]

    @property
    def memory_tokens(self) -> int:
        """S, the number of content tokens that queries may see.

        The last patch of an order precedes no query, so none may see it.
        """
        return _memory_tokens(self.extra_tokens, self.num_read, self.order.shape[1])

    @property
    def before_asked(self) -> Tensor | slice:
        """Index of the content token just before each rank that is asked for.

        Without a query stream, its output predicts the patch.
        """
        first = self.extra_tokens - 1
        if self.query_ranks is None:
            return slice(first, first + self.asked.shape[1])
        return self.query_ranks + first

    @property
    def query_mask(self) -> Mask:
        """(K, K): what queries see of each other, in a transformer projector."""
        ranks, total = self.query_ranks, self.order.shape[1]
        if ranks is None and self.num_read == total and self.segment_length == 1:
            return CAUSAL
        if ranks is None:
            ranks = torch.arange(total, device=self.order.device)
        first = ranks // self.segment_length * self.segment_length
        earlier = (first[:, None] > first[None, :]) & (ranks < self.num_read)
        return Mask(earlier | (first[:, None] == first[None, :]))

    def dense(self) -> tuple[Tensor, Tensor]:
        """The masks written out, for pictures and tests.

        Returns:
            Content (E + R, E + R), and what queries see of all content tokens
            (K, E + R). Boolean, on the CPU.
        """
        tokens, queries = self.extra_tokens + self.num_read, self.asked.shape[1]
        memory = torch.zeros(queries, tokens, dtype=torch.bool)
        seen = self.memory_tokens
        memory[:, :seen] = self.memory_mask.dense(queries, seen)
        return self.content_mask.dense(tokens, tokens), memory


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
        """The plan of an order; nothing is drawn and no tensor is looked at.

        Args:
            order: (B, N).
            query_ranks: Rising ranks (K,) that are asked for; by default all.
            read: R, how many patches are read; by default all N.
            prefix: P, how many patches in front all see each other.
            lowest: No rank below this one is asked for.

        Raises:
            ValueError: If nothing precedes a patch that is asked for.
        """
        total, device = self.num_patches, order.device
        read = total if read is None else read
        if isinstance(query_ranks, range):
            lowest = query_ranks.start
        if not self.extra_tokens and lowest < self.segment_length:
            raise ValueError(
                "The first patch of an order is asked for and nothing precedes it; set "
                "with_cls_token=True, or a reading with a prefix that asks after it."
            )
        assert order.shape[1] == total and 0 <= prefix <= read <= total
        # Of whole segments, as the patches of one see each other.
        assert read % self.segment_length == prefix % self.segment_length == 0
        everything = query_ranks is None or query_ranks == range(total)
        if everything:
            ranks, asked = None, order
        elif isinstance(query_ranks, range):
            asked = order[:, query_ranks.start : query_ranks.stop]
            ranks = torch.arange(query_ranks.start, query_ranks.stop, device=device)
        else:
            ranks, asked = query_ranks, order[:, query_ranks]
        return Plan(
            order=order,
            asked=asked,
            query_ranks=ranks,
            num_read=read,
            extra_tokens=self.extra_tokens,
            content_mask=self._content_mask(read, prefix, device),
            memory_mask=self._memory_mask(query_ranks, lowest, read, prefix, device),
            segment_length=self.segment_length,
        )

    def _first(self, ranks: Tensor) -> Tensor:
        """The first rank of the segment of each rank."""
        return ranks // self.segment_length * self.segment_length

    def _content_mask(self, read: int, prefix: int, device: torch.device) -> Mask:
        if prefix and prefix == read:
            return SEES_ALL
        front = self.extra_tokens + prefix if prefix else 0
        if self.segment_length == 1:
            return Mask(is_causal=True, prefix=front)
        ranks = torch.arange(-self.extra_tokens, read, device=device)
        # Each extra token is a segment of its own, before all patches.
        first = torch.where(ranks < 0, ranks, self._first(ranks))
        sees = first[:, None] >= first[None, :]
        sees[:front, :front] = True
        return Mask(sees)

    def _memory_mask(
        self,
        ranks: Tensor | range | None,
        lowest: int,
        read: int,
        prefix: int,
        device: torch.device,
    ) -> Mask:
        total, extra, length = self.num_patches, self.extra_tokens, self.segment_length
        seen = _memory_tokens(extra, read, total)
        if extra + max(lowest // length * length, prefix) >= seen:
            return SEES_ALL
        if ranks is None:
            ranks = range(total)
        if isinstance(ranks, range):
            # The last one sees all, and each before it one less.
            if length == 1 and prefix <= lowest and extra + ranks.stop - 1 == seen:
                return CAUSAL
            ranks = torch.arange(ranks.start, ranks.stop, device=device)
        reach = extra + self._first(ranks).clamp(min=prefix)
        return Mask(torch.arange(seen, device=device) < reach[:, None])

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


def sort_tokens(tokens: Tensor, order: Tensor) -> Tensor:
    """Raster -> sorted: ``out[b, t] = tokens[b, order[b, t]]``.

    Args:
        tokens: (B, N, D), or (1, N, D) shared by all images.
        order: (B, N), or (B, K) of some steps.

    Returns:
        (B, N, D), or (B, K, D).
    """
    if tokens.shape[0] == 1:
        return tokens[0][order]
    index = order.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return tokens.gather(1, index)


def unsort_tokens(tokens: Tensor, order: Tensor) -> Tensor:
    """Sorted -> raster; the inverse of :func:`sort_tokens`. (B, N, D) -> (B, N, D)."""
    index = order.unsqueeze(-1).expand_as(tokens)
    return torch.empty_like(tokens).scatter_(1, index, tokens)


def _memory_tokens(extra: int, read: int, total: int) -> int:
    return extra + (read if read < total else total - 1)


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
