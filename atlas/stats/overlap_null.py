"""How surprising an overlap of two sets of neurons is: against any neurons, matched ones, and other concepts' sets.

Nothing is random, so no seed is needed. How often each null gives p <= 0.05 without an effect is measured by simulation
in `docs/statistics.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas.stats.membership import Covariates, probabilities

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Members = NDArray[np.bool_]
    Floats = NDArray[np.float64]

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
"""The prefix of each null's statistics -> its name."""


def overlap_statistics(
    sizes: Sequence[int], shared: int, total: int, *, only: bool = False, unscored: int = 0
) -> Statistics:
    """How surprising it is that two sets of neurons, drawn from the same `total`, share `shared`.

    expected: by chance, the product of the sizes over the total. lift: shared / expected. p_value: of at least as
    many shared, hypergeometric. The null draws uniformly over these neurons; sets that prefer the same layers or the
    same loud neurons overlap more than it expects even without a common concept: see `matched_statistics`.

    only: about the neurons of the first set that the second lacks, instead of those that both have; p_value: of at
    least as many. unscored: how many more neurons the first set has that the second map does not score.
    """
    from scipy.stats import hypergeom

    if total == 0 or 0 in sizes:
        return _statistics(0.0, 1.0 if shared <= 0 else 0.0, sizes[0] + unscored, shared, only)
    law = hypergeom(total, sizes[0], sizes[1])
    p_value = law.cdf(shared) if only else law.sf(shared - 1)
    return _statistics(sizes[0] * sizes[1] / total, float(p_value), sizes[0] + unscored, shared, only)


def matched_statistics(
    first: Members, second: Members, known: Covariates, shared: int, *, only: bool = False, unscored: int = 0
) -> Statistics:
    """The same against a null in which the two sets have only layers and loudness in common.

    With a and b the probabilities that a neuron is in either set given its layer and loudness
    (`atlas.stats.membership`), and the two sets independent given these, the number shared has the mean sum(a b). As a
    and b are fitted to the same sets, its variance is that of sum((A - a) (B - b)), which is sum(a (1 - a) b (1 - b));
    with one group of neurons this is the hypergeometric mean and nearly its variance. p_value: the tail of a Poisson
    law shrunk to this variance.

    first, second: (neurons,), over the neurons that both maps score. Keys as in `overlap_statistics`.
    """
    size = int(first.sum()) + unscored
    if not len(first):
        return _statistics(0.0, 1.0, size, shared, only)
    a, b = probabilities(known, first), probabilities(known, second)
    return given_probabilities(a, b, known, size, shared, only=only)


def given_probabilities(
    a: Floats, b: Floats, known: Covariates, size: int, shared: int, *, only: bool = False
) -> Statistics:
    """`matched_statistics` of sets whose probabilities are known, which many pairs have in common.

    a, b: (groups,) `atlas.stats.membership.probabilities` of either set. size: of the first.
    """
    mean = float((known.sizes * a * b).sum())
    variance = float((known.sizes * a * (1 - a) * b * (1 - b)).sum())
    p_value = 1 - _poisson_tail(shared + 1, mean, variance) if only else _poisson_tail(shared, mean, variance)
    return _statistics(mean, p_value, size, shared, only)


def _poisson_tail(count: float, mean: float, variance: float) -> float:
    """The probability of at least `count`, given the mean and a variance that is at most as large.

    A Poisson law whose deviations from the mean are shrunk to the variance: unlike a binomial law of the same moments
    it has no largest value, so that no overlap is impossible.
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
    """The same against the same answers after other concepts' prompts.

    swapped: the two sources' sets from these. Of the neurons of the first set that are in exactly one of the second set
    and its swapped version, half would be in each if the prompt did not matter (McNemar 1947, the exact test); the
    p-value is the larger of the two with the sources exchanged.
    """
    from scipy.stats import binom

    p_values = []
    for own, opposite, control in ((first, second, swapped[1]), (second, first, swapped[0])):
        gained, lost = len((own & opposite) - control), len((own & control) - opposite)
        law = binom(gained + lost, 0.5)
        p_values.append(float(law.cdf(gained) if only else law.sf(gained - 1)))
    mean = (len(first & swapped[1]) + len(second & swapped[0])) / 2
    return _statistics(mean, max(p_values), len(first), len(first & second), only)


def _statistics(mean: float, p_value: float, size: int, shared: int, only: bool) -> Statistics:
    observed, expected = (size - shared, size - mean) if only else (shared, mean)
    lift = observed / expected if expected > 1e-12 else None
    return {"expected": expected, "lift": lift, "p_value": min(1.0, max(0.0, p_value))}


def verdict(
    counts: Mapping[str, float | None], claim: str, *, value: str = "p_value", caveat: str | None = None
) -> str:
    """The conclusion: the claim where every null is rejected, otherwise which is not, or why it cannot be decided.

    counts: statistics of the nulls by their prefixes; a null without any was not tested. value: p_value or q_value.
    caveat: added to the claim, about what was not tested.
    """
    tested = {name: counts[prefix + value] for prefix, name in NULLS.items() if prefix + value in counts}
    not_rejected = [name for name, p in tested.items() if p is not None and p > ALPHA]
    pairs = counts.get(f"{MISMATCHED}pairs")
    if pairs is not None and 1 / (1 + pairs) > ALPHA and not_rejected in ([], [NULLS[MISMATCHED]]):
        concepts = int(pairs) // 2
        return f"cannot tell from {concepts} other concept{'' if concepts == 1 else 's'} (10 are needed)"
    if not_rejected:
        return f"not shown: as many by {' and by '.join(not_rejected)}"
    return claim if caveat is None else f"{claim}, {caveat}"


def suffixed(name: str) -> str:
    """A statistic's name in an answer: `p` for p_value, with the null as suffix: `p_matched` for matched_p_value."""
    prefix = next((prefix for prefix in (MATCHED, MISMATCHED, ANSWERS) if name.startswith(prefix)), CHANCE)
    short = name.removeprefix(prefix)
    short = {"p_value": "p", "q_value": "q"}.get(short, short)
    return f"{short}_{prefix.removesuffix('_')}" if prefix else short


def null_lines(statistics: Statistics, matched: str) -> list[str]:
    """One line for each null: what it expects. matched: what matched neurons have in common."""
    pairs = int(statistics.get(f"{MISMATCHED}pairs") or 0)
    descriptions = {CHANCE: "any neurons", MATCHED: f"neurons of the same {matched}"}
    descriptions[MISMATCHED] = f"other concepts' neurons ({pairs} pairs)"
    descriptions[ANSWERS] = "the same answers after other prompts"
    lines = []
    for prefix, name in descriptions.items():
        expected = statistics.get(f"{prefix}expected")
        if expected is None:
            continue
        lift, p = statistics[prefix + "lift"], statistics[prefix + "p_value"]
        shown = "" if lift is None else f"lift {lift:.3g}, "
        count = f"{expected:.0f}" if expected >= 100 else f"{expected:.2g}"
        lines.append(f"  by {name}: {count} expected, {shown}p = {p:.2g}")
    return lines
