"""Which neurons several sets have in common: every neuron counted once, by the sets that have it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Set
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    {
        "sets": pa.list_(pa.string()),
        "degree": pa.int64(),
        "neurons": pa.int64(),
        "expected": pa.float64(),
        "lift": pa.float64(),
    }
)


def intersections(sets: Mapping[str, Set[Hashable]], total: int) -> pa.Table:
    """One row for every combination of sets that has neurons, those of the most neurons first.

    sets: the sets in `sets` and in no other. degree: how many these are. neurons: how many neurons are in exactly
    these. expected: how many would be if each set were drawn evenly from the `total`, independently of the others.
    lift: neurons over expected, None where nothing is expected.
    """
    member_of = Counter(tuple(name for name in sets if neuron in sets[name]) for neuron in set().union(*sets.values()))
    rows: list[dict[str, Any]] = []
    for names, count in member_of.items():
        expected = float(total)
        for name, of in sets.items():
            share = len(of) / total
            expected *= share if name in names else 1 - share
        lift = count / expected if expected > 1e-12 else None
        rows.append({"sets": list(names), "degree": len(names), "neurons": count, "expected": expected, "lift": lift})
    order = {name: place for place, name in enumerate(sets)}
    rows.sort(key=lambda row: (-row["neurons"], row["degree"], [order[name] for name in row["sets"]]))
    return pa.Table.from_pylist(rows, schema=SCHEMA)
