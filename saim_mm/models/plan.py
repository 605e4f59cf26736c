"""Who predicts what from what: the plan of a batch, and the masks that follow from it.

With :mod:`saim_mm.models.order`, which draws orders, the only place that knows how a
sequence is sorted and put back, and who may see whom in it.

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

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """What attending tokens see; the arguments of ``scaled_dot_product_attention``.

    Attributes:
        attn_mask: Boolean (L, S), ``True`` means "sees"; a layer with a bias hands it
            on in its place.
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


@dataclass(frozen=True, eq=False)
class Plan:
    """Who predicts what from what in a batch; made once, by :func:`make_plan`.

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


def make_plan(
    order: Tensor,
    segment_length: int,
    extra_tokens: int,
    query_ranks: Tensor | range | None = None,
    read: int | None = None,
    prefix: int = 0,
    lowest: int = 0,
) -> Plan:
    """The plan of an order; nothing is drawn and no tensor is looked at.

    Args:
        order: (B, N).
        segment_length: Patches of a segment.
        extra_tokens: E.
        query_ranks: Rising ranks (K,) that are asked for; by default all.
        read: R, how many patches are read; by default all N.
        prefix: P, how many patches in front all see each other.
        lowest: No rank below this one is asked for.

    Raises:
        ValueError: If nothing precedes a patch that is asked for.
    """
    total, device = order.shape[1], order.device
    read = total if read is None else read
    if isinstance(query_ranks, range):
        lowest = query_ranks.start
    if not extra_tokens and lowest < segment_length:
        raise ValueError(
            "The first patch of an order is asked for and nothing precedes it; set "
            "with_cls_token=True, or a reading with a prefix that asks after it."
        )
    assert 0 <= prefix <= read <= total
    # Of whole segments, as the patches of one see each other.
    assert read % segment_length == prefix % segment_length == 0
    everything = query_ranks is None or query_ranks == range(total)
    if everything:
        ranks, asked = None, order
    elif isinstance(query_ranks, range):
        asked = order[:, query_ranks.start : query_ranks.stop]
        ranks = torch.arange(query_ranks.start, query_ranks.stop, device=device)
    else:
        ranks, asked = query_ranks, order[:, query_ranks]
    own = extra_tokens, segment_length, read, prefix, device
    return Plan(
        order=order,
        asked=asked,
        query_ranks=ranks,
        num_read=read,
        extra_tokens=extra_tokens,
        content_mask=_content_mask(*own),
        memory_mask=_memory_mask(query_ranks, lowest, total, *own),
        segment_length=segment_length,
    )


def _content_mask(
    extra: int, length: int, read: int, prefix: int, device: torch.device
) -> Mask:
    if prefix and prefix == read:
        return SEES_ALL
    front = extra + prefix if prefix else 0
    if length == 1:
        return Mask(is_causal=True, prefix=front)
    ranks = torch.arange(-extra, read, device=device)
    # Each extra token is a segment of its own, before all patches.
    first = torch.where(ranks < 0, ranks, ranks // length * length)
    sees = first[:, None] >= first[None, :]
    sees[:front, :front] = True
    return Mask(sees)


def _memory_mask(
    ranks: Tensor | range | None,
    lowest: int,
    total: int,
    extra: int,
    length: int,
    read: int,
    prefix: int,
    device: torch.device,
) -> Mask:
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
    reach = extra + (ranks // length * length).clamp(min=prefix)
    return Mask(torch.arange(seen, device=device) < reach[:, None])


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
