"""Agreement of methods: rank correlation and overlap of the tops for every pair, with intervals."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.query import compare_maps
from atlas.query.amount import size
from atlas.query.map_spec import MapSpec
from atlas.stats.intervals import of_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from duckdb import DuckDBPyConnection as Connection
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

OVER_NEURONS = 200
"""Resamples, each of which ranks all neurons again."""

LIMITS = {"correlation": (-1.0, 1.0), "overlap": (0.0, 1.0)}

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("method", "other", "source", "target", "reduce")]
    + [(f"{name}{end}", pa.float64()) for name in ("correlation", "overlap") for end in ("", "_low", "_high")]
    + [("concepts", pa.int64()), ("interval", pa.string()), ("runs", pa.list_(pa.string()))]
)


def pairwise(connection: Connection, spec: MapSpec, seed: int = 0) -> pa.Table:
    """One row for every two methods, source, target and reduction: see `atlas.questions.agreement`."""
    pairs = compare_maps.method_pairs(spec).run(connection).to_pylist()
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for pair in pairs:
        counts[_kind(pair)] += 1
    names = ("source", "target", "reduce", "concept", "component")
    for _, group in groupby(pairs, key=lambda pair: tuple(pair[name] for name in names)):
        same_concept = list(group)
        maps = {i: _load(connection, i) for i in {p[end] for p in same_concept for end in ("first", "second")}}
        only_pair = any(counts[_kind(p)] == 1 for p in same_concept)
        for pair, (values, draws) in zip(same_concept, _compared(same_concept, maps, only_pair, seed), strict=True):
            kinds[_kind(pair)].append({"values": values, "draws": draws, "runs": pair["runs"]})
    rows = [_row(kind, concepts) for kind, concepts in kinds.items()]
    rows.sort(key=lambda r: (r["source"], r["target"], r["reduce"], -(r["correlation"] or 0), r["method"], r["other"]))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def with_intervals(rows: pa.Table) -> pa.Table:
    """The rows of `compare_maps.agreement` with the 95 % interval of the mean correlation over maps, for which the
    correlations of the maps are dropped."""
    spread = [of_values(values or [], LIMITS["correlation"]) for values in rows["correlations"].to_pylist()]
    for name in ("low", "high"):
        ends = pa.array([getattr(interval, name) for interval in spread], pa.float64())
        rows = rows.append_column(f"correlation_{name}", ends)
    return rows.drop_columns(["correlations"])


def _kind(pair: dict[str, Any]) -> tuple[str, ...]:
    return tuple(pair[name] for name in ("method", "other", "source", "target", "reduce"))


def _load(connection: Connection, map_id: int) -> tuple[Whole, Floats, Whole]:
    """A map's neurons as sorted numbers, and their scores and ranks in that order."""
    import numpy as np

    table = compare_maps.map_scores(map_id).run(connection)
    keys = table["layer"].to_numpy().astype(np.int64) << 32 | table["neuron"].to_numpy()
    order = np.argsort(keys)
    return keys[order], table["score"].to_numpy().astype(np.float64)[order], order


def _compared(
    pairs: Sequence[dict[str, Any]], maps: dict[int, tuple[Whole, Floats, Whole]], resample: bool, seed: int
) -> Iterator[tuple[Floats, Floats | None]]:
    """For each pair its correlation and overlap, (2,), and with `resample` those of resampled neurons, (resamples, 2).

    Maps of the same neurons are ranked together, once; maps of different neurons pair by pair among the common ones.
    """
    import numpy as np

    by_maps: dict[tuple[int, ...], tuple[Floats, Floats | None]] = {}
    for pair in pairs:
        ids: tuple[int, ...] = (pair["first"], pair["second"])
        common, other_neurons = (maps[i][0] for i in ids)
        if np.array_equal(common, other_neurons):
            ids = tuple(i for i, (neurons, _, _) in maps.items() if np.array_equal(neurons, common))
        else:
            common = np.intersect1d(common, other_neurons, assume_unique=True)
        if len(common) < 2:
            yield np.full(2, np.nan), None
            continue
        if ids not in by_maps:
            positions = [np.searchsorted(maps[i][0], common) for i in ids]
            scores = np.stack([maps[i][1][places] for i, places in zip(ids, positions, strict=True)])
            ranks = np.stack([maps[i][2][places] for i, places in zip(ids, positions, strict=True)])
            once = np.ones((1, len(common)), dtype=np.int64)
            weights = _resampled(len(common), seed) if resample else None
            by_maps[ids] = (
                weighted_agreement(scores, ranks, once)[0],
                None if weights is None else weighted_agreement(scores, ranks, weights),
            )
        values, draws = by_maps[ids]
        a, b = ids.index(pair["first"]), ids.index(pair["second"])
        yield values[:, a, b], None if draws is None else draws[:, :, a, b]


def _resampled(count: int, seed: int) -> Iterator[Whole]:
    """How often each of `count` neurons is in a draw of as many with replacement."""
    import numpy as np

    generator = np.random.default_rng(seed)
    for _ in range(OVER_NEURONS):
        yield np.bincount(generator.integers(count, size=count), minlength=count)


def weighted_agreement(scores: Floats, ranks: Whole, weights: Iterator[Whole] | Whole) -> Floats:
    """Spearman's correlation and overlap of the tops between every two methods, where neurons count several times.

    scores: (methods, neurons); equal ones share their mean rank. ranks: (methods, neurons), what orders the tops.
    weights: for each resample, how often each neuron is in it, as many in all as there are neurons. Returns (resamples,
    2, methods, methods); a correlation is NaN where all of a method's scores are equal.
    """
    import numpy as np

    methods, count = scores.shape
    top = size(compare_maps.TOP, count)
    by_score = np.argsort(scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, by_score, axis=1)
    starts = [np.flatnonzero(np.r_[True, row[1:] != row[:-1]]) for row in ordered]
    by_rank = np.argsort(ranks, axis=1)
    # Zeros below a positive best are in no top: their order is random (`atlas.query.selection_rules.placed`).
    has_place = (scores != 0) | (scores.max(axis=1, keepdims=True) <= 0)
    agreement = []
    for weight in weights:
        placed, copies = np.empty((methods, count)), np.empty((methods, count), dtype=np.int64)
        for m in range(methods):
            ties = np.add.reduceat(weight[by_score[m]], starts[m])
            middle = np.cumsum(ties) - (ties - 1) / 2  # the mean of the ranks that tied neurons take up
            placed[m, by_score[m]] = np.repeat(middle, np.diff(np.r_[starts[m], count]))
            best = weight[by_rank[m]]
            copies[m, by_rank[m]] = np.clip(top - (np.cumsum(best) - best), 0, best) * has_place[m, by_rank[m]]
        placed -= (count + 1) / 2
        products = (placed * weight) @ placed.T
        lengths = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
        correlation = np.divide(products, lengths, out=np.full_like(products, np.nan), where=lengths > 0)
        tops = copies[:, copies.any(axis=0)]
        sizes = tops.sum(axis=1)
        larger = np.maximum(np.maximum(sizes[:, None], sizes), 1)
        overlap = np.minimum(tops[:, None], tops[None]).sum(axis=-1) / larger
        agreement.append(np.stack([np.clip(correlation, -1, 1), overlap]))
    return np.stack(agreement)


def _row(kind: tuple[str, ...], concepts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The means over concepts, and their 95 % intervals: over concepts, or over neurons where there is one concept."""
    import numpy as np

    row: dict[str, Any] = dict(zip(SCHEMA.names, kind, strict=False)) | {"concepts": len(concepts)}
    row["interval"] = "neurons" if len(concepts) == 1 else "concepts"
    row["runs"] = sorted({run for concept in concepts for run in concept["runs"]})
    for i, name in enumerate(("correlation", "overlap")):
        values = np.array([f["values"][i] for f in concepts])
        values = values[~np.isnan(values)]  # a constant map has no correlation
        row[name] = float(values.mean()) if len(values) else None
        low = high = None
        if len(concepts) > 1:
            over_concepts = of_values(values, LIMITS[name])
            low, high = over_concepts.low, over_concepts.high
        elif concepts[0]["draws"] is not None:
            draws = concepts[0]["draws"][:, i]
            draws = draws[~np.isnan(draws)]
            low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (None, None)
        row[f"{name}_low"], row[f"{name}_high"] = low, high
    return row
