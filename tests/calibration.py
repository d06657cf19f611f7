"""How often nulls and intervals are wrong where the truth is known: simulated, for tests and `docs/statistics.md`.

python tests/calibration.py nulls
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atlas.membership import covariates
from atlas.nulls import matched_statistics

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


if __name__ == "__main__":
    if sys.argv[1] == "nulls":
        _print_nulls(int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
