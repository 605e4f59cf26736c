"""The order in which patches are predicted, and who may see whom in it.

This is the one file that knows how a sequence is sorted and put back.

Conventions, used everywhere:

* ``order`` is a long tensor (B, N); ``order[b, t]`` is the raster index of the patch
  that image ``b`` predicts at step ``t`` (the paper's z_t).
* "sorted" means in that order. The class token is a prefix: the content sequence is
  ``[cls, z_1, ..., z_N]`` (1 + N tokens), the query sequence ``[z_1, ..., z_N]``.
* A mask is boolean and ``True`` means "sees".

Why sort at all: once its position embedding is added, a token does not know where it
stands in the sequence. Sorted by the order, the paper's irregular content mask (Eq. 3)
is the lower triangle over the content tokens, and its query mask (Eq. 5) the lower
triangle between the N queries and the *first* N content tokens. So plain causal
attention does it, and no mask is built.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from mmengine.dist import get_rank
from torch import Tensor, nn

from ..utils.splitmix64 import hash_keys

OrderKind = Literal["stochastic", "raster", "segments"]
#: What a token sees: all others, those at or before its own place, or what a mask says:
#: boolean, or a float bias that is added to the scores.
Visible = Literal["all", "causal"] | Tensor


class PatchOrder(nn.Module):
    """A family of prediction orders over a grid of patches.

    Patches are grouped in segments of equal size; the segments come in some sequence,
    and the patches of one segment are predicted together:

    * ``stochastic`` (the paper): every patch is its own segment, uniformly shuffled.
    * ``raster`` (iGPT, ViT-iGPT): every patch is its own segment, row by row.
    * ``segments`` (RandSAC): rectangular segments, uniformly shuffled. The patches of a
      segment see each other in the content stream, and are predicted from earlier
      segments only.

    Args:
        kind: The member of the family.
        grid: Rows and columns of the patch grid.
        segment_size: Rows and columns of a segment, in patches; for ``segments`` only.

    Raises:
        ValueError: If the kind is unknown or the segments do not tile the grid.
    """

    patches_of_segment: Tensor  # (S, L): raster indices of the L patches of a segment
    _content_mask: Tensor | None

    def __init__(
        self,
        kind: OrderKind,
        grid: tuple[int, int],
        segment_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if kind not in get_args(OrderKind):
            raise ValueError(
                f"order={kind!r} is unknown; choose one of {get_args(OrderKind)}."
            )
        segment_size = _check_segment_size(kind, grid, segment_size)
        self.kind = kind
        self.num_patches = grid[0] * grid[1]
        self.segment_length = segment_size[0] * segment_size[1]

        raster = torch.arange(self.num_patches).view(grid)
        tiles = raster.unfold(0, segment_size[0], segment_size[0])
        tiles = tiles.unfold(1, segment_size[1], segment_size[1])
        patches = tiles.reshape(-1, self.segment_length)
        self.register_buffer("patches_of_segment", patches, persistent=False)
        self.register_buffer("_content_mask", self._block_mask(), persistent=False)

    def _block_mask(self) -> Tensor | None:
        """The content mask (1 + N, 1 + N) of tied steps; ``None`` where causal does."""
        if self.segment_length == 1:
            return None
        # cls is a segment of its own, before all others.
        segment = torch.arange(self.num_patches) // self.segment_length
        segment = torch.cat([segment.new_full((1,), -1), segment])
        return segment[:, None] >= segment[None, :]

    @property
    def content_visible(self) -> Visible:
        """What content tokens see of each other, sorted: (1 + N, 1 + N)."""
        return "causal" if self._content_mask is None else self._content_mask

    @property
    def memory_visible(self) -> Visible:
        """What queries see of the first N content tokens, sorted: (N, N).

        The last content token is missing because no query may ever see it.
        """
        if self._content_mask is None:
            return "causal"
        steps = torch.arange(self.num_patches, device=self._content_mask.device)
        return self.memory_visible_at(steps)

    def memory_visible_at(self, steps: Tensor) -> Tensor:
        """What the queries of some steps see of the first N content tokens.

        Args:
            steps: (K,), rising.

        Returns:
            Boolean (K, N).
        """
        # All that precedes the step's segment; content token j is [cls, z_1, ...][j].
        first = steps // self.segment_length * self.segment_length
        return torch.arange(self.num_patches, device=steps.device) <= first[:, None]

    @property
    def query_visible(self) -> Visible:
        """What queries may see of each other in a transformer head: (N, N)."""
        return "causal" if self._content_mask is None else self._content_mask[1:, 1:]

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
        if self.kind == "raster":
            segments = torch.arange(num_segments, device=device)
            segments = segments.expand(batch_size, num_segments)
        elif keys is not None:
            segments = hash_keys(keys, num_segments).argsort(dim=1, stable=True)
        else:
            if generator is None:
                generator = _step_generator(device)
            r = torch.rand(batch_size, num_segments, device=device, generator=generator)
            segments = r.argsort(dim=1)
        return self.patches_of_segment[segments].flatten(1)

    def draw_steps(
        self,
        share: float,
        device: torch.device,
        generator: torch.Generator | None = None,
        key: Tensor | None = None,
    ) -> Tensor | None:
        """Draws the steps whose patches are predicted, all subsets equally likely.

        Args:
            share: Share of the N steps, in (0, 1].
            device: Where the steps are needed.
            generator: As in :meth:`draw`.
            key: (1,) long, on the device; the steps are a function of it then.

        Returns:
            Steps (K,), rising, or ``None`` for all of them.
        """
        count = max(1, round(share * self.num_patches))
        if count == self.num_patches:
            return None
        if key is not None:
            r = hash_keys(key, self.num_patches)[0]
        else:
            if generator is None:
                generator = _step_generator(device)
            r = torch.rand(self.num_patches, device=device, generator=generator)
        return r.argsort(stable=True)[:count].sort().values

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


def _check_segment_size(
    kind: OrderKind, grid: tuple[int, int], segment_size: tuple[int, int] | None
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
            f"segment_size={tuple(segment_size)} does not tile the patch grid {grid}; "
            f"rows must divide {grid[0]} and columns {grid[1]}."
        )
    return (rows, columns)


def _step_generator(device: torch.device) -> torch.Generator:
    """A generator for one draw.

    The seed comes from torch's global CPU generator, so seeding the run fixes every
    order and no state is hidden here; drawing it on the CPU does not wait for a GPU.
    The rank is added because MMEngine seeds all ranks alike by default.
    """
    seed = int(torch.randint(2**62, ()).item())
    return torch.Generator(device).manual_seed(seed + get_rank())
