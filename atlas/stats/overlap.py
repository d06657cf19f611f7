"""Neurons that two modalities share for a concept, or that one has alone, beside what chance would give.

The nulls: any neurons, neurons of the same layer and loudness, other concepts' neurons, and where a run has them those
of the same answers behind other prompts (`atlas.stats.overlap_null`). "Shared" is claimed where all are rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.query import compare_maps
from atlas.query.map_spec import ANSWER, MapSpec
from atlas.query.neuron_set import NeuronSet
from atlas.query.provenance import Provenance
from atlas.query.resolve_maps import (
    EVERYTHING,
    StoredMap,
    choose_concepts,
    choose_several,
    null_map,
    provenance_of,
    same_but,
)
from atlas.query.selection_rules import Rule
from atlas.query.statements import find_maps
from atlas.stats.loudness import Loudness, loudness_of
from atlas.stats.membership import covariates
from atlas.stats.overlap_null import (
    ANSWERS,
    MATCHED,
    MISMATCHED,
    NULLS,
    answer_statistics,
    matched_statistics,
    mismatched_statistics,
    overlap_statistics,
    verdict,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

SIDES = ("source", "target")
TEXT = "text"


@dataclass(frozen=True, slots=True)
class Shared:
    """Neurons in the top of two maps, or in the first's alone, and how many chance would give.

    between: the two modalities. statistics: shared (how many both have), only (how many the first has alone, where
    that was asked), top, chosen (how many the first's top has); expected, lift and p_value against any neurons that
    both maps score (`overlap_statistics`), with matched_ before them against those of the same layer and loudness
    (`matched_statistics`), and with mismatched_ before them against other concepts' (`mismatched_statistics`);
    mismatched_pairs: how many overlaps with other concepts these are; where they are stored, answer_ before them,
    against the same answers behind other prompts (`answer_statistics`). matched: what matched neurons have in common;
    "" where nothing is known of the model's other neurons. verdict: what may be said at 0.05.
    """

    neurons: NeuronSet
    between: tuple[str, ...]
    statistics: dict[str, float | None]
    matched: str
    verdict: str


@dataclass(frozen=True, slots=True)
class ConceptOverlaps:
    """One row a concept: shared or only, expected, lift, p_value, q_value, the same for the other nulls, and verdict.

    q_value: Benjamini and Hochberg's, over the rows. left_out: concepts that have a map of one modality alone.
    """

    rows: pa.Table
    between: tuple[str, ...]
    matched: str
    left_out: tuple[str, ...]
    provenance: Provenance


def sides(side: str, sources: Sequence[str], targets: Sequence[str]) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The side that is compared, the two modalities of it, and the one of the other side where it was given.

    Two targets and at most one source compare the targets, whatever the side.

    Raises:
        UsageError: not two different ones of the side that is compared, or several of the other.
    """
    if side not in SIDES:
        raise UsageError(f"maps are compared on one [[side]], source or target, not '{side}'")
    given = {"source": tuple(sources), "target": tuple(targets)}
    if side == "source" and len(targets) == 2 and len(sources) < 2:
        side = "target"
    other = SIDES[1 - SIDES.index(side)]
    between = given[side] or ("image", "text")
    if len(between) != 2 or len(set(between)) != 2:
        raise UsageError(f"give two different [[{side}s]], for example image,text")
    if len(given[other]) > 1:
        raise UsageError(f"with [[side={side}]], give one of the [[{other}s]]; [[side={other}]] compares two of them")
    return side, between, {other: given[other][0]} if given[other] else {}


def of_concept(
    connection: Connection, which: MapSpec, side: str, between: Sequence[str], top: int, only: bool
) -> Shared:
    """See `Atlas.shared` and `Atlas.only`."""
    chosen = choose_several(connection, which, side, between)
    loudness = loudness_of(connection, chosen)
    _require_kept(chosen, loudness, top)
    counts = _statistics(connection, which, chosen, loudness, Rule("top", top), only) | {"top": top}
    rows = compare_maps.shared_neurons([c["map_id"] for c in chosen], top=top, only=only).run(connection)
    rule = {"top": top, "only" if only else "shared": list(between), "side": side}
    said = verdict(counts, _claim(only, between), caveat=_caveat(chosen, counts))
    return Shared(NeuronSet(rows, provenance_of(chosen, rule)), tuple(between), counts, loudness.by, said)


@dataclass(frozen=True, slots=True)
class Common:
    """How many neurons two selections share, what each null gives, and what may be said: see `Shared`."""

    statistics: dict[str, float | None]
    matched: str
    verdict: str


def of_selections(connection: Connection, which: MapSpec, name: str, values: Sequence[str], rule: Rule) -> Common:
    """What a rule chooses from two maps that differ in `name` (method, source or target), as `of_concept`.

    Every neuron of the maps that the rule sees must be stored, which `atlas.query.execute.require_kept` checks.
    """
    chosen = choose_several(connection, which, name, values)
    loudness = loudness_of(connection, chosen)
    counts = _statistics(connection, which, chosen, loudness, rule, only=False)
    return Common(counts, loudness.by, verdict(counts, "shared", caveat=_caveat(chosen, counts)))


def _statistics(
    connection: Connection, which: MapSpec, chosen: Sequence[StoredMap], loudness: Loudness, rule: Rule, only: bool
) -> dict[str, float | None]:
    """Against all nulls there are."""
    answers = _answers(connection, which, chosen, chosen[0]["concept"]).get(chosen[0]["concept"], [])
    sets = _Sets(connection, rule, [*chosen, *_other_concepts(connection, which, chosen), *answers])
    counts = sets.overlap(connection, chosen, loudness, only) | sets.mismatched(chosen, only)
    return counts | sets.answered(chosen, answers, only)


def _answers(
    connection: Connection, which: MapSpec, chosen: Sequence[StoredMap], concept: str | None = None
) -> dict[str, list[StoredMap]]:
    """Of a concept, or of each: the maps of the same answers behind other concepts' prompts that are else like these;
    only of concepts for which they were made for both."""
    found: dict[str, list[StoredMap]] = {}
    for place, mine in enumerate(chosen):
        asked = same_but(mine, {"method": f"{mine['method']}.{ANSWER}", "concept": concept})
        for row in find_maps(MapSpec(**asked, run=which.run)).run(connection).to_pylist():
            maps = found.setdefault(str(row["concept"]), [])
            if row["component"] == mine["component"] and len(maps) == place:  # the first of each, where all before are
                maps.append(StoredMap(row, ()))
    return {name: maps for name, maps in found.items() if len(maps) == len(chosen)}


def _caveat(chosen: Sequence[StoredMap], counts: Mapping[str, float | None]) -> str | None:
    """What is said where two sources explain the same words, and nothing tells what these alone give."""
    if f"{ANSWERS}p_value" in counts or len({c["source"] for c in chosen}) < 2 or chosen[0]["target"] != TEXT:
        return None
    return "unless by the answers' words alone (`atlas ingest --swap-answers` tells)"


def _claim(only: bool, between: Sequence[str]) -> str:
    return f"{between[0]} has neurons of its own" if only else "shared"


def _other_concepts(connection: Connection, which: MapSpec, chosen: Sequence[StoredMap]) -> list[StoredMap]:
    """The maps of every concept that are like one of these in all else."""
    found = []
    for mine in chosen:
        same = {name: mine[name] for name in EVERYTHING if name != "component"}
        found += choose_concepts(connection, MapSpec(**same, run=which.run))
    return [c for c in found if c["concept"] != chosen[0]["concept"] and c["component"] == chosen[0]["component"]]


class _Sets:
    """The neurons that a rule chooses from each of many maps, and how many two of these sets share."""

    def __init__(self, connection: Connection, rule: Rule, maps: Sequence[StoredMap]):
        self.maps = list({c["map_id"]: c for c in maps}.values())
        nulls = [null_map(connection, c, rule.null) if rule.name == "z" else c for c in self.maps]
        ids = [c["map_id"] for c in self.maps]
        found = compare_maps.chosen_neurons(ids, rule, [n["map_id"] for n in nulls]).run(connection)
        rows = zip(*(found[name].to_pylist() for name in ("map_id", "layer", "neuron")), strict=True)
        self.neurons: dict[int, set[tuple[int, int]]] = {i: set() for i in ids}
        for map_id, layer, neuron in rows:
            self.neurons[map_id].add((layer, neuron))

    def overlap(
        self, connection: Connection, pair: Sequence[StoredMap], loudness: Loudness, only: bool
    ) -> dict[str, float | None]:
        """The statistics of two maps against any neurons, and against matched ones."""
        import numpy as np

        first, second = (self.neurons[c["map_id"]] for c in pair)
        shared = len(first & second)
        counts: dict[str, float | None] = {"shared": shared, **({"only": len(first) - shared} if only else {})}
        counts["chosen"] = len(first)
        if loudness.covers(pair):
            place = np.arange(loudness.neurons)
        else:  # a filter's map, or one of some layers: only what both score can be shared
            place = loudness.places(compare_maps.scored_by_both(*(c["map_id"] for c in pair)).run(connection))
        sets = [np.isin(place, loudness.places_of(neurons)) for neurons in (first, second)]
        sizes = [int(each.sum()) for each in sets]
        alone = len(first) - sizes[0]
        counts |= overlap_statistics(sizes, shared, len(place), only=only, alone=alone)
        if loudness.by:
            known = covariates(place // loudness.width, [loud[place] for loud in loudness.values])
            matched = matched_statistics(sets[0], sets[1], known, shared, only=only, alone=alone)
            counts |= {f"{MATCHED}{name}": value for name, value in matched.items()}
        return counts

    def answered(self, pair: Sequence[StoredMap], answers: Sequence[StoredMap], only: bool) -> dict[str, float | None]:
        """The statistics of a concept's two maps against those of the same answers behind other prompts."""
        if not answers:
            return {}
        first, second, *swapped = (frozenset(self.neurons[c["map_id"]]) for c in (*pair, *answers))
        found = answer_statistics(first, second, swapped, only=only)
        return {f"{ANSWERS}{name}": value for name, value in found.items()}

    def mismatched(self, pair: Sequence[StoredMap], only: bool) -> dict[str, float | None]:
        """The statistics of a concept's two maps against those of other concepts."""
        first, second = (self.neurons[c["map_id"]] for c in pair)
        others = []
        for c in self.maps:
            if c["concept"] == pair[0]["concept"] or c["method"] not in {p["method"] for p in pair}:
                continue
            for mine, other in ((first, pair[1]), (second, pair[0])):
                if all(c[name] == other[name] for name in ("method", "source", "target")):
                    others.append(len(mine & self.neurons[c["map_id"]]))
        found = mismatched_statistics(len(first), len(first & second), others, only=only)
        return {f"{MISMATCHED}{name}": value for name, value in (*found.items(), ("pairs", len(others)))}


def of_concepts(
    connection: Connection,
    which: MapSpec,
    side: str,
    between: Sequence[str],
    top: int,
    only: bool,
    concepts: Sequence[str] = (),
) -> ConceptOverlaps:
    """See `atlas.questions.shared`, over several concepts."""
    notes: list[str] = []
    if side == "target" and which.source is None:  # pictures may be asked for in text alone
        pinned = choose_several(connection, which, side, between)[0]
        which = replace(which, source=str(pinned["source"]))
        notes = [note for note in pinned.defaults if note.startswith("source=")]
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
    chosen[0] = StoredMap(chosen[0].row, (*notes, *chosen[0].defaults))
    loudness = loudness_of(connection, chosen)
    _require_kept(chosen, loudness, top)
    pair = [first[0], second[0]]
    answers = {name: maps for name, maps in _answers(connection, which, pair).items() if name in both}
    everyone = [*chosen, *_other_concepts(connection, which, pair), *chain(*answers.values())]
    sets, rows = _Sets(connection, Rule("top", top), everyone), []
    for concept, maps in sorted(both.items()):
        counts = sets.overlap(connection, maps, loudness, only) | sets.mismatched(maps, only) | {"top": top}
        counts |= sets.answered(maps, answers.get(concept, []), only)
        rows.append({"concept": concept, "supercategory": maps[0]["supercategory"], **counts})
    _add_q_values(rows)
    for row in rows:
        caveat = _caveat(both[row["concept"]], row)
        row["verdict"] = verdict(row, _claim(only, between), value="q_value", caveat=caveat)
    rows.sort(key=lambda row: (row["p_value"], row["concept"]))
    rule = {"top": top, "only" if only else "shared": list(between), "side": side}
    left_out = tuple(sorted(set(pairs) - set(both)))
    return ConceptOverlaps(
        pa.Table.from_pylist(rows), tuple(between), loudness.by, left_out, provenance_of(chosen, rule)
    )


def _add_q_values(rows: Sequence[dict[str, Any]]) -> None:
    """Benjamini and Hochberg's (1995), over the rows that have a p-value."""
    from scipy.stats import false_discovery_control

    for prefix in NULLS:
        there = [row for row in rows if row.get(f"{prefix}p_value") is not None]
        if there:
            values = false_discovery_control([row[f"{prefix}p_value"] for row in there])
            for row, q in zip(there, values, strict=True):
                row[f"{prefix}q_value"] = float(q)


def _require_kept(chosen: Sequence[StoredMap], loudness: Loudness, top: int) -> None:
    for c in chosen:
        if c["kept"] < c["neurons"] and (top > c["kept"] or not loudness.covers(chosen)):
            raise UsageError(
                f"the map of {c['concept']} by {c['method']} keeps its best {c['kept']} of {c['neurons']} neurons, "
                "too few for this comparison; ask for a smaller --top, or ingest with --keep all"
            )
