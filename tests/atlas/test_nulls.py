"""The overlap nulls against enumeration, drawing, SciPy, and simulations of what is true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from calibration import Case, null_cases, null_p_values
from scipy.optimize import minimize
from scipy.stats import hypergeom

from atlas.stats.membership import PENALTY, covariates, probabilities
from atlas.stats.overlap_null import matched_statistics, mismatched_statistics, overlap_statistics, verdict


def test_the_p_value_is_the_hypergeometric_tail() -> None:
    found = overlap_statistics((5, 4), 3, 20)
    ways = sum(math.comb(5, k) * math.comb(15, 4 - k) for k in (3, 4))
    assert found["p_value"] == pytest.approx(ways / math.comb(20, 4))
    assert found["expected"] == pytest.approx(5 * 4 / 20)
    assert found["lift"] == pytest.approx(3 / (5 * 4 / 20))


def test_only_is_about_what_the_second_lacks() -> None:
    found = overlap_statistics((5, 4), 1, 20, only=True)
    ways = sum(math.comb(5, k) * math.comb(15, 4 - k) for k in (0, 1))
    assert found["p_value"] == pytest.approx(ways / math.comb(20, 4))
    assert found["expected"] == pytest.approx(5 - 1)
    assert found["lift"] == pytest.approx(4 / 4)


def sets_of(first: list[int], second: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.isin(np.arange(count), first), np.isin(np.arange(count), second)


def test_without_loudness_and_layers_the_matched_null_is_hypergeometric() -> None:
    first, second = sets_of(list(range(40)), list(range(25, 65)), 500)
    found = matched_statistics(first, second, covariates(np.zeros(500, dtype=int), []), 15)
    exact = hypergeom(500, 40, 40)
    assert found["expected"] == pytest.approx(exact.mean())
    assert exact.sf(14) < (found["p_value"] or 0) < 100 * exact.sf(14)  # far out, strict rather than easy
    assert matched_statistics(first, second, covariates(np.zeros(500, dtype=int), []), 6)["p_value"] == pytest.approx(
        exact.sf(5), rel=0.1
    )
    only = matched_statistics(first, second, covariates(np.zeros(500, dtype=int), []), 1, only=True)
    assert only["expected"] == pytest.approx(40 - exact.mean())
    assert only["p_value"] == pytest.approx(exact.cdf(1), rel=0.15)


@pytest.mark.parametrize("shared", [20, 23, 26, 30])
def test_the_tail_is_near_that_of_drawing(shared: int) -> None:
    """Two layers of which the sets take shares of their own, drawn many times."""
    generator, layer = np.random.default_rng(4), np.repeat([0, 1], [100, 400])
    first, second = sets_of(list(range(60)) + list(range(100, 120)), list(range(20, 80)) + list(range(110, 130)), 500)
    drawn = hypergeom(100, 60, 60).rvs(20000, random_state=generator)
    drawn = drawn + hypergeom(400, 20, 20).rvs(20000, random_state=generator)
    found = matched_statistics(first, second, covariates(layer, []), shared + 16)
    exact = float((drawn >= shared + 16).mean())
    assert found["expected"] == pytest.approx(37, rel=0.05)
    assert 0.7 * exact - 0.02 <= (found["p_value"] or 0) <= 1.5 * exact + 0.02


def test_the_fit_is_the_penalised_maximum() -> None:
    generator = np.random.default_rng(0)
    layer, loud = np.repeat(np.arange(3), 50), np.exp(generator.standard_normal(150))
    members = generator.random(150) < 0.6 * loud / loud.max()
    known = covariates(layer, [loud])
    hits = np.bincount(known.group, members, minlength=len(known.sizes))
    penalty = np.r_[1e-6, np.full(known.design.shape[1] - 1, PENALTY)]

    def loss(weights: np.ndarray) -> float:
        logits = known.design @ weights
        return float((known.sizes * np.logaddexp(0, logits) - hits * logits).sum() + (penalty * weights**2).sum() / 2)

    best = minimize(loss, np.zeros(known.design.shape[1]), method="BFGS", options={"gtol": 1e-7, "maxiter": 5000})
    found = probabilities(known, members)
    assert found == pytest.approx(1 / (1 + np.exp(-known.design @ best.x)), abs=2e-4)
    assert float((known.sizes * found).sum()) == pytest.approx(members.sum(), rel=1e-4)


def test_louder_neurons_and_their_layers_are_likelier() -> None:
    generator = np.random.default_rng(1)
    layer, loud = np.repeat(np.arange(4), 500), np.exp(1.5 * generator.standard_normal(2000))
    score = loud * np.array([1, 1, 1, 5])[layer] * generator.standard_normal(2000)
    members = np.zeros(2000, dtype=bool)
    members[np.argsort(-score)[:100]] = True
    known = covariates(layer, [loud])
    each = probabilities(known, members)[known.group]
    loudest = loud >= np.sort(loud)[-200]
    for part in (loudest, ~loudest, layer == 3, layer == 0):  # as many as there are
        assert each[part].sum() == pytest.approx(members[part].sum(), abs=3 + 0.1 * members[part].sum())


@pytest.mark.parametrize("members", ["all", "none"])
def test_sets_of_all_or_no_neurons_cannot_surprise(members: str) -> None:
    whole = np.full(50, members == "all")
    some = np.arange(50) < 20
    shared = 20 if members == "all" else 0
    found = matched_statistics(whole, some, covariates(np.arange(50) // 25, [np.arange(50.0) + 1]), shared)
    assert found["expected"] == pytest.approx(shared) and found["p_value"] == 1


HARD = [Case(loudness, means, 40) for loudness in ("log-normal 1.5", "Pareto 1.2") for means in ("one", "two")]


@pytest.mark.parametrize("case", [*HARD, Case("log-normal 0.5", "one", 40, depth=7.4)], ids=str)
def test_independent_sets_do_not_surprise(case: Case) -> None:
    """What equal-count bins called p <= 0.05 in 74 to 98 of 100 draws."""
    rate = (null_p_values(case, 150) <= 0.05).mean()
    assert rate <= 0.08 + 2 * math.sqrt(0.08 * 0.92 / 150)


@pytest.mark.nightly
@pytest.mark.parametrize("case", list(null_cases(((4, 512), (24, 1000)))), ids=str)
def test_the_matched_null_is_never_too_easy(case: Case) -> None:
    rate = (null_p_values(case, 400) <= 0.05).mean()
    assert rate <= 0.08 + 2 * math.sqrt(0.08 * 0.92 / 400)


def test_a_common_concept_still_surprises() -> None:
    """Twenty neurons of both sets by design, among loud noise."""
    generator = np.random.default_rng(2)
    loud = np.exp(1.5 * generator.standard_normal(2000))
    sets = []
    planted = generator.choice(np.flatnonzero(loud < 1), 20, replace=False)
    for _ in range(2):
        score = loud * generator.standard_normal(2000)
        score[planted] = 1e3
        members = np.zeros(2000, dtype=bool)
        members[np.argsort(-score)[:40]] = True
        sets.append(members)
    shared = int((sets[0] & sets[1]).sum())
    found = matched_statistics(sets[0], sets[1], covariates(np.zeros(2000, dtype=int), [loud]), shared)
    assert shared >= 20 and (found["p_value"] or 1) < 1e-6


def test_other_concepts_are_counted_one_by_one() -> None:
    found = mismatched_statistics(40, 20, [3, 19, 20, 5])
    assert found["expected"] == pytest.approx(47 / 4) and found["p_value"] == pytest.approx((1 + 1) / (1 + 4))
    only = mismatched_statistics(40, 20, [3, 19, 20, 5], only=True)  # fewer are as extreme
    assert only["p_value"] == pytest.approx((1 + 4) / (1 + 4)) and only["expected"] == pytest.approx(40 - 47 / 4)
    assert mismatched_statistics(40, 20, [])["p_value"] is None


def test_the_rank_among_other_concepts_holds_its_level() -> None:
    """Sets of twelve concepts and two sources that overlap because of what all of them have in common."""
    generator = np.random.default_rng(3)
    rejected = []
    for _ in range(150):
        common = 3 * generator.random(300)
        tops = np.zeros((2, 12, 300), dtype=bool)
        for source in range(2):
            for concept in range(12):
                tops[source, concept, np.argsort(-common - generator.random(300))[:40]] = True
        overlaps = (tops[0][:, None] & tops[1][None]).sum(-1)
        others = [*np.delete(overlaps[0], 0), *np.delete(overlaps[:, 0], 0)]
        p = mismatched_statistics(40, int(overlaps[0, 0]), others)["p_value"]
        rejected.append(p is not None and p <= 0.05)
    assert np.mean(rejected) <= 0.08


def test_shared_is_claimed_where_every_null_is_rejected() -> None:
    counts = {"p_value": 1e-9, "matched_p_value": 0.01, "mismatched_p_value": 0.02, "mismatched_pairs": 60}
    assert verdict(counts, "shared") == "shared"
    assert verdict({**counts, "mismatched_p_value": 0.4}, "shared") == "not shown: as many by other concepts"
    both = {**counts, "matched_p_value": 0.3, "mismatched_p_value": 0.4}
    assert verdict(both, "shared") == "not shown: as many by matched neurons and by other concepts"
    few = {**counts, "mismatched_p_value": 1 / 7, "mismatched_pairs": 6}
    assert verdict(few, "shared") == "cannot tell from 3 other concepts (10 are needed)"
    assert verdict({**few, "matched_p_value": 0.3}, "shared").startswith("not shown: as many by matched neurons")
    none = {**counts, "mismatched_p_value": None, "mismatched_pairs": 0}
    assert verdict(none, "shared") == "cannot tell from 0 other concepts (10 are needed)"
