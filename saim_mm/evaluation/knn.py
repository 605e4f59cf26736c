"""Weighted k nearest neighbours, as in DINO (Caron et al. 2021) and Wu et al. 2018.

Symbols: Q queries, N neighbours in the bank, D channels, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_rank, get_world_size
from torch import Tensor

from .features import Features

#: Similarities that are held at a time: 256 MB.
_MAX_SIMILARITIES = 2**26


def check_votes(number: int, k: int, temperature: float) -> None:
    """Refuses options that are out of range for a bank of so many images.

    Raises:
        ValueError: If one is.
    """
    if not 1 <= k <= number:
        raise ValueError(
            f"k={k} must be at least 1 and at most {number}, the images to choose "
            "neighbours from; lower k or give more images."
        )
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive, such as 0.07.")


@torch.no_grad()
def knn_scores(
    queries: Tensor,
    bank: Features,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Lets the k most similar neighbours vote, exactly.

    A neighbour of cosine similarity s votes for its class with exp(s / temperature).

    Args:
        queries: (Q, D), on the device of the bank.
        bank: N features with labels.
        num_classes: C.
        k: Number of neighbours.
        temperature: How much more a closer neighbour counts.

    Returns:
        Votes (Q, C); a row sums to 1.

    Raises:
        ValueError: If there are fewer than k neighbours, or an option is out of range.
    """
    check_votes(len(bank), k, temperature)
    keys = F.normalize(bank.vectors, dim=1)
    chunk = max(1, _MAX_SIMILARITIES // len(bank))
    votes = queries.new_zeros(len(queries), num_classes)
    for part, result in zip(queries.split(chunk), votes.split(chunk), strict=True):
        similarity, index = (F.normalize(part, dim=1) @ keys.T).topk(k, dim=1)
        # A softmax over the neighbours: same ratios, no overflow.
        weights = (similarity / temperature).softmax(dim=1)
        result.scatter_add_(1, bank.labels[index], weights)
    return votes


def knn_accuracy(
    queries: Features, bank: Features, k: int = 20, temperature: float = 0.07
) -> float:
    """Share of the queries whose neighbours vote for the right class.

    The processes of a run share the queries out and return the same number.

    Args:
        queries: Q features with labels, the same in every process.
        bank: N features with labels, the same in every process.
        k: Number of neighbours.
        temperature: As for :func:`knn_scores`.

    Returns:
        The accuracy in percent.

    Raises:
        ValueError: As for :func:`knn_scores`, or if there is no query.
    """
    if not len(queries):
        raise ValueError("There are no images to judge; give at least one.")
    rank, world = get_rank(), get_world_size()
    own = queries[rank::world]
    num_classes = int(bank.labels.max()) + 1
    scores = knn_scores(own.vectors, bank, num_classes, k, temperature)
    correct = (scores.argmax(dim=1) == own.labels).sum()
    all_reduce(correct)
    return 100 * correct.item() / len(queries)
