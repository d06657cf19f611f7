"""Rows of `measures` and `points` from collected representations (see `ingest.analyse.geometry`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from atlas.stats.intervals import Interval, of_clusters
from atlas.store.arrow_types import arrow_schema
from atlas.store.schema import points
from ingest.analyse.attention_flow import NAMES, AttentionFlow
from ingest.analyse.lens import Lens
from ingest.analyse.representation_metrics import cosine_distance, linear_cka, mixing, plane, probe, to_cluster
from ingest.analyse.representations import Representations, Token, priority
from ingest.attribution.role_sums import DISJOINT, SPECIAL, TEXT

Row = dict[str, Any]
HELD_OUT = 0.3
"""The share of examples on which the probe is tested."""


class ProjectionSettings(Protocol):
    """projections: their names. points: how many tokens of each role are plotted."""

    @property
    def projections(self) -> tuple[str, ...]: ...
    @property
    def points(self) -> int: ...


def _row(
    name: str,
    layer: int,
    first: str | None,
    second: str | None,
    value: float,
    examples: int,
    interval: Interval | None = None,
) -> Row:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    row: Row = {"name": name, "layer": layer, "first": first, "second": second, "value": value, "examples": examples}
    return {**row, "low": low, "high": high}


def place_rows(places: Representations, neighbours: int, seed: int, lens: Lens) -> Iterator[Row]:
    """Every measure of the roles' geometry, except NaN ones (a single role, constant vectors)."""
    roles = [role for role in DISJOINT if role in places.sums]
    for i, layer in enumerate(places.depths):
        for row in (*_of_layer(places, roles, i, layer, neighbours, seed), *_read(places, roles, i, layer, lens)):
            if math.isfinite(row["value"]):
                yield row


def _read(places: Representations, roles: Sequence[str], i: int, layer: int, lens: Lens) -> Iterator[Row]:
    """The entropies of what the logit lens reads."""
    for role in roles:
        tokens = places.tokens[role]
        entropies = lens.entropies(np.stack([vectors[i] for vectors in tokens.values()]))
        of_examples = [number for number, _ in tokens]
        interval = of_clusters(entropies[None], of_examples, share=False, bounds=(0.0, lens.uniform))
        yield _row("lens_entropy", layer, role, None, float(entropies.mean()), len(entropies), interval)
        yield _row("lens_uniform", layer, role, None, lens.uniform, len(entropies))


def _of_layer(
    places: Representations, roles: Sequence[str], i: int, layer: int, neighbours: int, seed: int
) -> Iterator[Row]:
    centroids = {role: places.sums[role][i] / places.counts[role] for role in roles}
    for first, second in combinations(roles, 2):
        distance = float(cosine_distance(centroids[first], centroids[second]))
        yield _row("centroid_distance", layer, first, second, distance, places.examples)
        shared_means = [m for m in places.means.values() if first in m and second in m]
        if len(shared_means) > 2:
            cka = linear_cka(
                np.stack([m[first][i] for m in shared_means]), np.stack([m[second][i] for m in shared_means])
            )
            yield _row("linear_cka", layer, first, second, cka, len(shared_means))
    vectors = {role: np.stack([v[i] for v in places.tokens[role].values()]) for role in roles}
    if TEXT in roles:
        for role, distances in to_cluster(vectors, TEXT).items():
            name = {TEXT: "text_spread", SPECIAL: "semantic_telomere"}.get(role, "semantic_probing")
            of_examples = [number for number, _ in places.tokens[role]]
            interval = of_clusters(distances[None], of_examples, share=False, bounds=(0.0, 2.0))
            yield _row(name, layer, role, TEXT, float(distances.mean()), len(distances), interval)
    names = np.array([role for role in roles for _ in vectors[role]])
    if len(roles) > 1:
        all_vectors = np.concatenate([vectors[role] for role in roles])
        for role, (share, chance) in mixing(all_vectors, names, neighbours).items():
            count = int((names == role).sum())
            yield _row("knn_mixing", layer, role, None, share, count)
            yield _row("knn_chance", layer, role, None, chance, count)
        numbers = np.array([number for role in roles for number, _ in places.tokens[role]])
        yield from _probed(all_vectors, names, held_out(places, roles, seed), numbers, layer)


def _probed(
    vectors: np.ndarray, names: np.ndarray, held_out_mask: np.ndarray, numbers: np.ndarray, layer: int
) -> Iterator[Row]:
    """The probe's rows. numbers: the example of each token, as tokens of one example are not independent."""
    result = probe(vectors, names, held_out_mask)
    if result is not None:
        right, commonest = result
        count = len(right)
        interval = of_clusters(right[None].astype(float), numbers[held_out_mask].tolist(), share=True)
        yield _row("probe_accuracy", layer, None, None, float(right.mean()), count, interval)
        yield _row("probe_chance", layer, None, None, commonest / count, count)


def held_out(places: Representations, roles: Sequence[str], seed: int) -> np.ndarray:
    """(tokens,) bool, in the order of roles and their tokens; whole examples are held out, the same at every layer."""
    tokens = [place for role in roles for place in places.tokens[role]]
    numbers = sorted({number for number, _ in tokens}, key=lambda n: priority(seed + 1, n))
    held_out_examples = set(numbers[: round(HELD_OUT * len(numbers))])
    return np.array([number in held_out_examples for number, _ in tokens])


def flow_rows(flow: AttentionFlow) -> Iterator[Row]:
    """Every measure of the attention flow."""
    for role, by_name in flow.means().items():
        for i, name in enumerate(NAMES):
            for j, layer in enumerate(flow.layers):
                yield _row(name, layer, role, None, *by_name[i][j])


def point_rows(
    run_id: str,
    conditions: Mapping[str, Mapping[str, Representations]],
    drawing: ProjectionSettings,
    seed: int,
    ids: Sequence[str],
) -> pa.Table:
    """Coordinates of sampled tokens, separately for each condition, source, layer and projection; see `plane`.

    conditions: condition -> source -> representations, of the same tokens under all; the first is what the others are
    laid out like. ids: the run's examples'.
    """
    rows: list[Row] = []
    first = next(iter(conditions.values()))
    for condition, places in conditions.items():
        for source, representations in places.items():
            chosen = _plotted(representations, drawing.points)
            original = _plotted(first[source], drawing.points)
            for projection in drawing.projections if len(chosen) > 4 else ():
                for i, layer in enumerate(representations.depths):
                    now = np.stack([vectors[i] for _, _, vectors in chosen])
                    like = np.stack([vectors[i] for _, _, vectors in original])
                    flat = plane(projection, now, seed, None if places is first else like)
                    labels = {"run_id": run_id, "projection": projection, "layer": layer, "condition": condition}
                    rows += [
                        {**labels, "example_id": ids[number], "position": t, "role": role, "x": float(x), "y": float(y)}
                        for (role, (number, t), _), (x, y) in zip(chosen, flat, strict=True)
                    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(points))


def _plotted(representations: Representations, most: int) -> list[tuple[str, Token, np.ndarray]]:
    """The tokens of every role that are plotted, with their role and vectors, (depths, d_model)."""
    return [
        (role, place, vectors)
        for role, tokens in representations.tokens.items()
        for place, vectors in list(tokens.items())[:most]
    ]
