"""How many of some neurons a layer would have if they were drawn evenly from all neurons of the model."""

from __future__ import annotations

import math

TAIL = 0.025
"""Of the draws, how many are below the band, and how many above, at most."""


def even_band(drawn: int, layers: int, width: int) -> tuple[int, int]:
    """The numbers of one layer between which 95 % of even draws lie: the smallest and the largest.

    drawn: neurons drawn without replacement from `layers` x `width`; the number of a layer is hypergeometric. low is
    the largest number with at most TAIL of the draws below it, high the smallest with at most TAIL above it.
    """
    total = layers * width
    if not 0 <= drawn <= total:
        raise ValueError(f"{drawn} of {total} neurons")
    least, most = max(0, drawn - (total - width)), min(drawn, width)
    shares = [math.exp(_log_share(count, drawn, total, width)) for count in range(least, most + 1)]
    return least + _outside(shares), most - _outside(shares[::-1])


def _outside(shares: list[float]) -> int:
    """How many of the first shares together are at most TAIL; never all of them."""
    together = 0.0
    for place, share in enumerate(shares[:-1]):
        together += share
        if together > TAIL:
            return place
    return len(shares) - 1


def _log_share(count: int, drawn: int, total: int, width: int) -> float:
    """The logarithm of the share of draws with `count` neurons of the layer."""
    return _log_choose(width, count) + _log_choose(total - width, drawn - count) - _log_choose(total, drawn)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
