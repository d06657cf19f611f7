"""How surprising an overlap of two sets of neurons is: against any neurons, matched ones, and other concepts' sets.

Nothing is drawn, so no seed is needed. How often each null says p <= 0.05 where there is nothing to find is measured by
simulation in `docs/statistics.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas.stats.membership import Covariates, probabilities

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Members = NDArray[np.bool_]

Statistics = dict[str, float | None]

ALPHA = 0.05
"""A null is rejected at this p-value, or over several concepts at this q-value."""

CHANCE, MATCHED, MISMATCHED, ANSWERS = "", "matched_", "mismatched_", "answer_"
NULLS = {
    CHANCE: "chance",
    MATCHED: "matched neurons",
    MISMATCHED: "other concepts",
    ANSWERS: "the answers' words alone",
}
"""The prefix of each null's statistics, and what it is called."""


def overlap_statistics(
    sizes: Sequence[int], shared: int, total: int, *, only: bool = False, alone: int = 0
) -> Statistics:
    """How surprising it is that two sets of neurons, drawn from the same `total`, share `shared`.

    expected: by chance, the product of the sizes over the total. lift: shared / expected. p_value: of at least
    so many shared, hypergeometric. The null draws uniformly over these neurons; sets that prefer the same layers
    or the same loud neurons overlap more than it says even without a common concept: see `matched_statistics`.

    only: about the neurons of the first set that the second lacks, instead of those that both have; p_value: of at
    least so many. alone: how many more the first set has where the second can have none.
    """
    from scipy.stats import hypergeom

    if total == 0 or 0 in sizes:
        return _statistics(0.0, 1.0 if shared <= 0 else 0.0, sizes[0] + alone, shared, only)
    law = hypergeom(total, sizes[0], sizes[1])
    p_value = law.cdf(shared) if only else law.sf(shared - 1)
    return _statistics(sizes[0] * sizes[1] / total, float(p_value), sizes[0] + alone, shared, only)


def matched_statistics(
    first: Members, second: Members, known: Covariates, shared: int, *, only: bool = False, alone: int = 0
) -> Statistics:
    """The same against a null in which the two sets have nothing in common but layers and loudness.

    With a and b the probabilities that a neuron is in either set given its layer and loudness
    (`atlas.stats.membership`), and the two sets independent given these, the number shared has the mean sum(a b). As a
    and b are fitted to the same sets, its variance is that of sum((A - a) (B - b)), which is sum(a (1 - a) b (1 - b));
    with one group of neurons this is the hypergeometric mean and nearly its variance. p_value: the tail of a Poisson
    law shrunk to this variance.

    first, second: (neurons,), of the neurons that both can have. Keys as in `overlap_statistics`.
    """
    size = int(first.sum()) + alone
    if not len(first):
        return _statistics(0.0, 1.0, size, shared, only)
    a, b = probabilities(known, first), probabilities(known, second)
    mean = float((known.sizes * a * b).sum())
    variance = float((known.sizes * a * (1 - a) * b * (1 - b)).sum())
    p_value = 1 - _tail(shared + 1, mean, variance) if only else _tail(shared, mean, variance)
    return _statistics(mean, p_value, size, shared, only)


def _tail(count: float, mean: float, variance: float) -> float:
    """The probability of at least `count` where the mean is this and the variance at most as large.

    A Poisson law whose deviations from the mean are shrunk to the variance: unlike a binomial law of the same moments
    it has no largest value, so that no overlap is called impossible.
    """
    from scipy.special import gammainc

    if count <= 0:
        return 1.0
    if variance <= 1e-9 * max(mean, 1.0):
        return float(count <= round(mean))
    place = mean + 0.5 + (count - 0.5 - mean) * (mean / variance) ** 0.5
    return 1.0 if place <= 0 else float(gammainc(place, mean))


def mismatched_statistics(size: int, shared: int, others: Sequence[int], *, only: bool = False) -> Statistics:
    """The same against other concepts: how much either set shares with the *other* source's sets of other concepts.

    What two sources have in common whatever the concept (the same answer tokens, the same loud or much-used neurons) is
    in these overlaps too. others: this concept's set of each source with every other concept's of the other source.
    p_value: (1 + how many of these are as extreme) / (1 + their number), the rank of the concept's own overlap among
    them; None where there is no other concept.
    """
    if not others:
        return {"expected": None, "lift": None, "p_value": None}
    extreme = sum(other <= shared if only else other >= shared for other in others)
    return _statistics(sum(others) / len(others), (1 + extreme) / (1 + len(others)), size, shared, only)


def answer_statistics(
    first: frozenset[Any], second: frozenset[Any], swapped: Sequence[frozenset[Any]], *, only: bool = False
) -> Statistics:
    """The same against the same answers behind other concepts' prompts.

    swapped: the two sources' sets found from these. Of the neurons of the first set that are in just one of the second
    set and its swapped one, as many would be in either if the prompt did not matter (McNemar 1947, the exact test); the
    larger of the two p-values that exchanging the sources gives.
    """
    from scipy.stats import binom

    found = []
    for mine, theirs, control in ((first, second, swapped[1]), (second, first, swapped[0])):
        gained, lost = len((mine & theirs) - control), len((mine & control) - theirs)
        law = binom(gained + lost, 0.5)
        found.append(float(law.cdf(gained) if only else law.sf(gained - 1)))
    mean = (len(first & swapped[1]) + len(second & swapped[0])) / 2
    return _statistics(mean, max(found), len(first), len(first & second), only)


def _statistics(mean: float, p_value: float, size: int, shared: int, only: bool) -> Statistics:
    found, expected = (size - shared, size - mean) if only else (shared, mean)
    lift = found / expected if expected > 1e-12 else None
    return {"expected": expected, "lift": lift, "p_value": min(1.0, max(0.0, p_value))}


def verdict(
    counts: Mapping[str, float | None], claim: str, *, value: str = "p_value", caveat: str | None = None
) -> str:
    """What may be said: the claim where every null is rejected, else which is not, or why that cannot be told.

    counts: statistics of the nulls by their prefixes; one that is not there was not asked. value: p_value or q_value.
    caveat: what is said behind the claim, of what was not asked.
    """
    asked = {name: counts[prefix + value] for prefix, name in NULLS.items() if prefix + value in counts}
    standing = [name for name, p in asked.items() if p is not None and p > ALPHA]
    pairs = counts.get(f"{MISMATCHED}pairs")
    if pairs is not None and 1 / (1 + pairs) > ALPHA and standing in ([], [NULLS[MISMATCHED]]):
        concepts = int(pairs) // 2
        return f"cannot tell from {concepts} other concept{'' if concepts == 1 else 's'} (10 are needed)"
    if standing:
        return f"not shown: as many by {' and by '.join(standing)}"
    return claim if caveat is None else f"{claim}, {caveat}"


def suffixed(name: str) -> str:
    """A statistic's name in an answer: `p` for p_value, and the null behind it, `p_matched` for matched_p_value."""
    prefix = next((prefix for prefix in (MATCHED, MISMATCHED, ANSWERS) if name.startswith(prefix)), CHANCE)
    short = name.removeprefix(prefix)
    short = {"p_value": "p", "q_value": "q"}.get(short, short)
    return f"{short}_{prefix.removesuffix('_')}" if prefix else short


def null_lines(statistics: Statistics, matched: str) -> list[str]:
    """What each null expects, one line a null. matched: what matched neurons have in common."""
    pairs = int(statistics[f"{MISMATCHED}pairs"] or 0)
    said = {CHANCE: "any neurons", MATCHED: f"neurons of the same {matched}"}
    said[MISMATCHED] = f"other concepts' neurons ({pairs} pairs)"
    said[ANSWERS] = "the same answers behind other prompts"
    lines = []
    for prefix, name in said.items():
        if statistics.get(f"{prefix}expected") is None:
            continue
        expected, lift, p = (statistics[prefix + key] for key in ("expected", "lift", "p_value"))
        shown = "" if lift is None else f"lift {lift:.3g}, "
        lines.append(f"  by {name}: {expected:.2g} expected, {shown}p = {p:.2g}")
    return lines
