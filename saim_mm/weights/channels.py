"""The patch embedding of an encoder for images of another number of channels."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

#: How weights for other channels are made.
ChannelFit: TypeAlias = Literal["repeat", "mean", "random"]


def fit_channels(kernel: Tensor, initial: Tensor, fit: ChannelFit) -> Tensor:
    """Makes a kernel for C channels of one for S.

    * ``repeat``: channel c gets the kernel of source channel c mod S, divided by the
      number n of channels that get the same: w'[c] = w[c mod S] / n(c mod S). Where
      there are fewer channels than source channels, each gets a sum: w'[c] = sum of
      w[s] over all s with s mod C = c.
    * ``mean``: every channel gets w'[c] = (w[0] + ... + w[S - 1]) / C.
    * ``random``: the kernel is as the model was initialised.

    By the first two the w' sum up to the sum of the w. So an image that is the same v
    in all its channels, grey after normalisation, has the response that it had:
    sum of w'[c] * v = v * sum of w[s].

    Args:
        kernel: Of the checkpoint (D, S, rows, columns).
        initial: Of the model (D, C, rows, columns).
        fit: How.

    Returns:
        (D, C, rows, columns).
    """
    if fit == "random":
        return initial
    source, target = kernel.shape[1], initial.shape[1]
    if fit == "mean":
        return kernel.sum(dim=1, keepdim=True).expand_as(initial) / target
    # Row c holds the shares of the source channels in channel c.
    shares = torch.zeros(target, source)
    for place in range(max(target, source)):
        shares[place % target, place % source] = 1
    shares = shares / shares.sum(dim=0)
    return torch.einsum("cs,dsij->dcij", shares, kernel.float()).to(kernel.dtype)
