"""Neurons that two modalities share for a concept, or that one has alone, beside what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas import compare
from atlas.choose import EVERYTHING, Chosen, choose_concepts, choose_several, provenance
from atlas.errors import UsageError
from atlas.neurons import LANGUAGE
from atlas.nulls import benjamini_hochberg, matched_cells, matched_statistics, overlap_statistics
from atlas.queries import Which, find_maps
from atlas.selection import NeuronSet

if TYPE_CHECKING:
    import numpy as np
    from duckdb import DuckDBPyConnection as Connection
    from numpy.typing import NDArray

    from atlas.nulls import Places

SIDES = ("source", "target")


@dataclass(frozen=True, slots=True)
class Shared:
    """Neurons in the top of two maps, or in the first's alone, and how many chance would give.

    between: the two modalities. statistics: shared (how many both have), only (how many the first has alone, where
    that was asked), top; expected, lift and p_value against any neurons that both maps score
    (`overlap_statistics`), and the same with matched_ before them against those of the same cells
    (`matched_statistics`). matched: what neurons of a cell have in common, "layer" or "layer and mean activation"; ""
    where nothing is known of the model's other neurons.
    """

    neurons: NeuronSet
    between: tuple[str, ...]
    statistics: dict[str, float | None]
    matched: str


@dataclass(frozen=True, slots=True)
class ConceptOverlaps:
    """One row a concept: shared or only, expected, lift, p_value, q_value, and the same for the matched null.

    q_value: Benjamini and Hochberg's, over the rows. left_out: concepts that have a map of one modality alone.
    """

    rows: pa.Table
    between: tuple[str, ...]
    matched: str
    left_out: tuple[str, ...]
    provenance: dict[str, Any]


def sides(side: str, sources: Sequence[str], targets: Sequence[str]) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The side that is compared, the two modalities of it, and the one of the other side where it was given.

    Two targets and at most one source compare the targets, whatever the side.

    Raises:
        UsageError: not two different ones of the side that is compared, or several of the other.
    """
    if side not in SIDES:
        raise UsageError(f"maps are compared on one --side, source or target, not '{side}'")
    given = {"source": tuple(sources), "target": tuple(targets)}
    if side == "source" and len(targets) == 2 and len(sources) < 2:
        side = "target"
    other = SIDES[1 - SIDES.index(side)]
    between = given[side] or ("image", "text")
    if len(between) != 2 or len(set(between)) != 2:
        raise UsageError(f"give two different --{side}s, for example --{side}s image,text")
    if len(given[other]) > 1:
        raise UsageError(f"with --side {side}, give one of --{other}s; --side {other} compares two of them")
    return side, between, {other: given[other][0]} if given[other] else {}


def of_concept(connection: Connection, which: Which, side: str, between: Sequence[str], top: int, only: bool) -> Shared:
    """See `Atlas.shared` and `Atlas.only`."""
    chosen = choose_several(connection, which, side, between)
    cells, matched = _cells(connection, chosen)
    rows, statistics = _overlap(connection, chosen, cells, top, only)
    rule = {"top": top, "only" if only else "shared": list(between), "side": side}
    return Shared(NeuronSet(rows, provenance(chosen, rule)), tuple(between), statistics, matched)


def of_concepts(
    connection: Connection,
    which: Which,
    side: str,
    between: Sequence[str],
    top: int,
    only: bool,
    concepts: Sequence[str] = (),
) -> ConceptOverlaps:
    """See `Atlas.shared_concepts`."""
    notes: list[str] = []
    if side == "target" and which.source is None:  # pictures may be asked for in text alone
        pinned = choose_several(connection, which, side, between)[0]
        which = replace(which, source=str(pinned["source"]))
        notes = [note for note in pinned.assumed if note.startswith("source=")]
    first = choose_concepts(connection, replace(which, **{side: between[0]}), concepts)
    same = {name: first[0][name] for name in EVERYTHING if name not in (side, "component")}
    second = choose_concepts(connection, replace(which, **same, **{side: between[1]}), concepts)
    pairs = {c["concept"]: [c] for c in first}
    for c in second:
        pairs.setdefault(c["concept"], []).append(c)
    both = {concept: maps for concept, maps in pairs.items() if len(maps) == 2}
    if not both:
        raise UsageError(f"no concept has maps of both {' and '.join(between)} (`atlas concepts` lists what there is)")
    chosen = [c for maps in both.values() for c in maps]
    chosen[0] = Chosen(chosen[0].row, (*notes, *chosen[0].assumed))
    cells, matched = _cells(connection, chosen)
    rows = []
    for concept, maps in sorted(both.items()):
        _, statistics = _overlap(connection, maps, cells, top, only)
        rows.append({"concept": concept, "supercategory": maps[0]["supercategory"], **statistics})
    for name in ("p_value", "matched_p_value"):
        if name in rows[0]:
            for row, q in zip(rows, benjamini_hochberg([row[name] for row in rows]), strict=True):
                row[name.replace("p_value", "q_value")] = q
    rows.sort(key=lambda row: (row["p_value"], row["concept"]))
    rule = {"top": top, "only" if only else "shared": list(between), "side": side}
    left_out = tuple(sorted(set(pairs) - set(both)))
    return ConceptOverlaps(pa.Table.from_pylist(rows), tuple(between), matched, left_out, provenance(chosen, rule))


def _overlap(
    connection: Connection, chosen: Sequence[Chosen], cells: Places | None, top: int, only: bool
) -> tuple[pa.Table, dict[str, float | None]]:
    whole = cells is not None and all(c["neurons"] == len(cells) for c in chosen)
    for c in chosen:
        if c["kept"] < c["neurons"] and (top > c["kept"] or not whole):
            raise UsageError(
                f"the map of {c['concept']} by {c['method']} keeps its best {c['kept']} of {c['neurons']} neurons, "
                "too few for this comparison; ask for a smaller --top, or ingest with --keep all"
            )
    ids = [c["map_id"] for c in chosen]
    rows = compare.shared_neurons(ids, top=top, only=only).run(connection)
    sizes = [min(top, c["neurons"]) for c in chosen]
    shared = sizes[0] - rows.num_rows if only else rows.num_rows
    counts: dict[str, float | None] = {"shared": shared, **({"only": rows.num_rows} if only else {}), "top": top}
    if cells is not None and whole:
        counts |= overlap_statistics(sizes, shared, len(cells), only=only)
        places = [cells[_at(compare.top_places(i, top).run(connection), chosen[0]["width"])] for i in ids]
    else:  # a filter's map, or one of some layers: only what both score can be shared
        both = compare.scored_by_both(ids[0], ids[1]).run(connection)
        tops = [both[name].to_numpy() <= top for name in ("first", "second")]
        alone = sizes[0] - int(tops[0].sum())
        within = [int(t.sum()) for t in tops]
        counts |= overlap_statistics(within, shared, both.num_rows, only=only, alone=alone)
        if cells is not None:
            cells, places = _within(cells, _at(both, chosen[0]["width"]), tops, alone)
    if cells is not None:
        matched = matched_statistics(places[0], places[1], cells, shared, only=only)
        counts |= {f"matched_{name}": value for name, value in matched.items()}
    return rows, counts


def _at(neurons: pa.Table, width: int) -> Places:
    """The numbers of neurons in the order of layers."""
    found: Places = neurons["layer"].to_numpy().astype(int) * width + neurons["neuron"].to_numpy()
    return found


def _within(cells: Places, both: Places, tops: Sequence[NDArray[np.bool_]], alone: int) -> tuple[Places, list[Places]]:
    """The cells of the neurons `both`, and those of the two tops among them.

    What the first has `alone` is in a cell apart, of which the second has none.
    """
    import numpy as np

    apart = np.full(alone, cells.max() + 1)
    kept = cells[both]
    return np.concatenate([kept, apart]), [np.concatenate([kept[tops[0]], apart]), kept[tops[1]]]


def _cells(connection: Connection, chosen: Sequence[Chosen]) -> tuple[Places | None, str]:
    """The cell of every neuron of the model, and what the neurons of a cell have in common.

    The mean activation is taken without its sign, over all positions of a source, as the method `activation` stored it
    for the concept "*"; of two sources, both count. It must be known of as many neurons as the maps score.
    """
    import numpy as np

    row = chosen[0]
    if row["component"] != LANGUAGE:  # how wide other components are is not stored
        return None, ""
    means = []
    for source in sorted({c["source"] for c in chosen}):
        same = {name: row[name] for name in ("model", "dataset", "fingerprint", "tap")}
        which = Which("*", "activation", source, reduce="mean", **same)
        found = [m for m in find_maps(which).run(connection).to_pylist() if m["component"] == LANGUAGE]
        if not found or found[0]["neurons"] < max(c["neurons"] for c in chosen):
            return matched_cells([], row["layers"], row["width"]), "layer"
        stored = compare.map_scores(found[0]["map_id"]).run(connection)
        mean = np.zeros((row["layers"], row["width"]))
        mean[stored["layer"].to_numpy(), stored["neuron"].to_numpy()] = np.abs(stored["score"].to_numpy())
        means.append(mean)
    return matched_cells(means, row["layers"], row["width"]), "layer and mean activation"
