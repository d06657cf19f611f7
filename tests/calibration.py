"""How often nulls and intervals are wrong where the truth is known: simulated, for tests and `docs/statistics.md`.

python tests/calibration.py nulls
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atlas.stats.intervals import Interval, of_clusters, of_values
from atlas.stats.membership import covariates
from atlas.stats.overlap_null import matched_statistics

LOUDNESS = ("flat", "log-normal 0.5", "log-normal 1.5", "Pareto 1.2")


@dataclass(frozen=True)
class Case:
    """Two sets that have nothing in common but loudness and layers.

    loudness: how it is distributed over neurons. means: one loudness for both sets, or one each that are alike (`two`)
    or have nothing in common (`apart`). depth: how many times as large scores of the last layer are as of the first,
    beyond their loudness.
    """

    loudness: str
    means: str
    top: int
    layers: int = 4
    width: int = 512
    depth: float = 1.0


def drawn_loudness(kind: str, generator: np.random.Generator, count: int) -> np.ndarray:
    name, _, amount = kind.partition(" ")
    if name == "flat":
        return np.ones(count)
    if name == "log-normal":
        return np.exp(float(amount) * generator.standard_normal(count))
    return generator.pareto(float(amount), count) + 1


def null_p_values(case: Case, draws: int, seed: int = 0) -> np.ndarray:
    """(draws,) p-values of the matched null for scores of independent noise."""
    generator = np.random.default_rng(seed)
    count = case.layers * case.width
    layer = np.repeat(np.arange(case.layers), case.width)
    beyond = case.depth ** (layer / max(1, case.layers - 1))
    found = []
    for _ in range(draws):
        loud = [drawn_loudness(case.loudness, generator, count)] * 2
        if case.means == "two":
            loud = [one * np.exp(0.3 * generator.standard_normal(count)) for one in loud]
        elif case.means == "apart":
            loud[1] = drawn_loudness(case.loudness, generator, count)
        sets = []
        for one in loud:
            members = np.zeros(count, dtype=bool)
            members[np.argsort(-one * beyond * generator.standard_normal(count))[: case.top]] = True
            sets.append(members)
        known = covariates(layer, loud[:1] if case.means == "one" else loud)
        shared = int((sets[0] & sets[1]).sum())
        found.append(matched_statistics(sets[0], sets[1], known, shared)["p_value"])
    return np.array(found, dtype=float)


def null_cases(shapes: Sequence[tuple[int, int]] = ((4, 512),)) -> Iterator[Case]:
    for layers, width in shapes:
        for loudness in LOUDNESS:
            for means in ("one", "two", "apart"):
                for top in (10, 40, 200):
                    for depth in (1.0, 7.4):
                        yield Case(loudness, means, top, layers, width, depth)


def _print_nulls(draws: int) -> None:
    print("| loudness | means | layers x width | depth | top 10 | top 40 | top 200 |\n|---|---|---|--:|--:|--:|--:|")
    row: list[str] = []
    for case in null_cases(((4, 512), (24, 1000))):
        rate = float((null_p_values(case, draws) <= 0.05).mean())
        row.append(f"{case.loudness}|{case.means}|{case.layers} x {case.width}|{case.depth:g}|{case.top}|{rate:.3f}")
    rates = {tuple(r.split("|")[:5]): r.split("|")[5] for r in row}
    for key in dict.fromkeys(k[:4] for k in rates):
        print("| " + " | ".join([*key, *(rates[(*key, top)] for top in ("10", "40", "200"))]) + " |")


def covered(found: Interval, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


def share_coverage(share: float, groups: int, each: int, alike: float, draws: int, seed: int = 0) -> float:
    """How often the interval of a share covers it. alike: the correlation of two answers of one cluster."""
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(draws):
        rates = np.full(groups, share)
        if alike == 1:
            rates = (generator.random(groups) < share).astype(float)
        elif alike > 0:
            size = (1 - alike) / alike
            rates = generator.beta(share * size, (1 - share) * size, groups)
        answers = (generator.random((groups, each)) < rates[:, None]).astype(float)
        found = of_clusters(answers.reshape(1, -1), np.repeat(np.arange(groups), each).tolist(), share=True)
        hits += covered(found, share)
    return hits / draws


SKEWED = {"normal": 0.0, "exponential": 1.0, "log-normal 1": float(np.exp(0.5)), "beta 0.5 2": 0.2}
"""Distributions of a metric, and their means."""


def mean_coverage(kind: str, groups: int, draws: int, seed: int = 0) -> float:
    """How often the interval of a mean of independent values covers it."""
    generator = np.random.default_rng(seed)
    draw = {
        "normal": lambda: generator.standard_normal(groups),
        "exponential": lambda: generator.exponential(size=groups),
        "log-normal 1": lambda: np.exp(generator.standard_normal(groups)),
        "beta 0.5 2": lambda: generator.beta(0.5, 2, groups),
    }[kind]
    return float(np.mean([covered(of_values(draw()), SKEWED[kind]) for _ in range(draws)]))


def drawn_coverage(groups: int, each: int, seeds: int, among: float, draws: int, seed: int = 0) -> float:
    """How often the interval of a mean over clusters and random draws covers it. among: the standard deviation of the
    draws, where that of clusters and of single answers is 1."""
    generator = np.random.default_rng(seed)
    hits = 0
    clusters = np.repeat(np.arange(groups), each).tolist()
    for _ in range(draws):
        of_cluster = np.repeat(generator.standard_normal(groups), each)
        values = of_cluster + generator.standard_normal((seeds, groups * each))
        values = values + among * generator.standard_normal((seeds, 1))
        hits += covered(of_clusters(values, clusters, share=False, drawn=True), 0.0)
    return hits / draws


def stage_one_p_values(noise: str, pictures: int, seed: int) -> np.ndarray:
    """(neurons,) p-values of two_stage's first threshold where a random region is compared with two random regions.

    noise: normal; heavy (Student's with 2 degrees of freedom, in one of three pictures); together (half of what moves
    a neuron moves all of its layer).
    """
    import torch

    from ingest.attribution.randomisation_test import p_values, sums_of_contrasts

    generator = np.random.default_rng(seed)
    values = generator.standard_normal((3, 2, pictures, 256))
    if noise == "heavy":
        values = generator.standard_t(2, values.shape) * (generator.random((1, 1, pictures, 256)) < 1 / 3)
    elif noise == "together":
        values += generator.standard_normal((3, 2, pictures, 1))
    drawn = torch.from_numpy(generator.integers(3, size=(16, pictures)))
    parts = sums_of_contrasts(torch.from_numpy(values), drawn)
    found = p_values({name: part.mean(1) for name, part in parts.items()}, pictures)
    return found[found.isfinite()].numpy()


def _print_stage_one(draws: int) -> None:
    print("| pictures | normal | heavy | together |\n|--:|--:|--:|--:|")
    for pictures in (3, 6, 12, 54):
        rates = []
        for noise in ("normal", "heavy", "together"):
            found = [stage_one_p_values(noise, pictures, seed) for seed in range(draws)]
            rates.append(float(np.mean([(p <= 0.05).mean() for p in found])))
        print(f"| {pictures} | " + " | ".join(f"{r:.3f}" for r in rates) + " |")


def _print_shares(draws: int) -> None:
    print("| clusters | answers each | alike | share 0.5 | 0.8 | 0.95 |\n|--:|--:|--:|--:|--:|--:|")
    for groups in (3, 5, 10, 30, 100):
        for each, alike in ((1, 0.0), (4, 0.0), (4, 0.5), (4, 0.85), (4, 1.0), (10, 0.5), (10, 0.85)):
            rates = [share_coverage(share, groups, each, alike, draws) for share in (0.5, 0.8, 0.95)]
            print(f"| {groups} | {each} | {alike:g} | " + " | ".join(f"{r:.3f}" for r in rates) + " |")


def _print_means(draws: int) -> None:
    print("| values | " + " | ".join(SKEWED) + " |\n|--:|" + "--:|" * len(SKEWED))
    for groups in (3, 4, 6, 10, 20, 50, 200):
        rates = [mean_coverage(kind, groups, draws) for kind in SKEWED]
        print(f"| {groups} | " + " | ".join(f"{r:.3f}" for r in rates) + " |")
    print("\n| clusters | draws | sd of draws 0 | 0.5 | 2 |\n|--:|--:|--:|--:|--:|")
    for groups in (4, 12, 50):
        for seeds in (3, 5, 10):
            rates = [drawn_coverage(groups, 4, seeds, among, draws) for among in (0.0, 0.5, 2.0)]
            print(f"| {groups} | {seeds} | " + " | ".join(f"{r:.3f}" for r in rates) + " |")


if __name__ == "__main__":
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    printed = {"nulls": _print_nulls, "shares": _print_shares, "means": _print_means, "two_stage": _print_stage_one}
    printed[sys.argv[1]](number)
