"""How surprising an overlap of two sets of neurons is: against any neurons, against matched ones, over many concepts.

Both nulls are exact, so nothing is drawn and no seed is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Places = NDArray[np.integer]
    Floats = NDArray[np.floating]

LEAST = 20
"""Neurons that a cell of matched neurons should have on average: in smaller ones, a draw has little to choose from."""


def overlap_statistics(
    sizes: Sequence[int], shared: int, total: int, *, only: bool = False, alone: int = 0
) -> dict[str, float | None]:
    """How surprising it is that two sets of neurons, drawn from the same `total`, share `shared`.

    expected: by chance, the product of the sizes over the total. lift: shared / expected. p_value: of at least
    so many shared, hypergeometric. The null draws uniformly over these neurons; sets that prefer the same layers
    overlap more than it says even without a common concept: see `matched_statistics`.

    only: about the neurons of the first set that the second lacks, instead of those that both have; p_value: of at
    least so many. alone: how many more the first set has where the second can have none.
    """
    return _statistics([sizes[0], alone], [sizes[1], 0], [total, alone], shared, only)


def matched_statistics(
    first: Places, second: Places, cells: Places, shared: int, *, only: bool = False
) -> dict[str, float | None]:
    """The same against a null that exchanges neurons only within cells of alike ones.

    The second set is drawn anew with as many neurons of every cell as it has, the first one stays: in a cell of n
    neurons with a and b of the two sets, the number shared is hypergeometric (n, a, b), and the sum over cells is the
    convolution of these. Given the cell counts this is Fisher's exact test stratified by cell (Birch 1964).

    first, second: the cells of the sets' neurons. cells: those of all neurons that may be drawn; in a cell
    where the second set has none, nothing can be shared. Keys as in `overlap_statistics`.
    """
    import numpy as np

    count = int(cells.max(initial=0)) + 1
    each = [np.bincount(of, minlength=count) for of in (first, second, cells)]
    return _statistics(each[0], each[1], each[2], shared, only)


def _statistics(
    first: Sequence[int] | Places,
    second: Sequence[int] | Places,
    total: Sequence[int] | Places,
    shared: int,
    only: bool,
) -> dict[str, float | None]:
    import numpy as np
    from scipy.stats import hypergeom

    a, b, n = (np.asarray(x, dtype=np.int64) for x in (first, second, total))
    expected = float((a * b / np.maximum(n, 1)).sum())
    met = np.flatnonzero((a > 0) & (b > 0))
    if not len(met):  # none can be shared
        tail, head = float(shared <= 0), 1.0
    elif len(met) == 1:  # SciPy's tail, exact to the last digit also where it is tiny
        cell = hypergeom(n[met[0]], a[met[0]], b[met[0]])
        tail, head = cell.sf(shared - 1), cell.cdf(shared)
    else:
        chance = np.ones(1)
        for cell in met:
            chance = np.convolve(chance, hypergeom(n[cell], a[cell], b[cell]).pmf(np.arange(min(a[cell], b[cell]) + 1)))
        tail, head = chance[shared:].sum(), chance[: shared + 1].sum()
    found, by_chance = (int(a.sum()) - shared, float(a.sum()) - expected) if only else (shared, expected)
    p_value = float(min(head if only else tail, 1.0))
    return {"expected": by_chance, "lift": found / by_chance if by_chance else None, "p_value": p_value}


def matched_cells(means: Sequence[Floats], layers: int, width: int) -> Places:
    """Cells of alike neurons: of one layer, and of one bin of every mean activation given.

    means: each (layers, width); bins hold equally many neurons of a layer. As many bins, 10 at most, as leave a cell
    20 neurons on average. Returns (layers * width,): a number for each cell; without means, the layer.
    """
    import numpy as np

    cells = np.repeat(np.arange(layers), width)
    if not means:
        return cells
    bins = int(min(10, max(1, (width / LEAST) ** (1 / len(means)))))
    for mean in means:
        order = np.argsort(np.argsort(mean, axis=1, kind="stable"), axis=1)
        cells = cells * bins + (order * bins // width).reshape(-1)
    return cells


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """q-values: the least false discovery rate at which each finding counts (Benjamini & Hochberg 1995)."""
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])
    found = [1.0] * count
    least = 1.0
    for place in range(count, 0, -1):  # from the largest p on, so that q never falls as p rises
        least = min(least, p_values[order[place - 1]] * count / place)
        found[order[place - 1]] = least
    return found
