"""Neurons that two modalities share for a concept, or that only one has, compared with chance.

The nulls: any neurons, neurons of the same layer and loudness, other concepts' neurons, and where a run has them those
of the same answers after other prompts (`atlas.stats.overlap_null`). "Shared" is claimed where all are rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.query import compare_maps
from atlas.query.amount import count_of
from atlas.query.decoded import token_notes
from atlas.query.map_spec import ANSWER, MapSpec
from atlas.query.neuron_set import NeuronSet
from atlas.query.provenance import Provenance
from atlas.query.resolve_maps import (
    EVERYTHING,
    StoredMap,
    choose_concepts,
    choose_several,
    provenance_of,
    same_but,
)
from atlas.query.selection_rules import Rule
from atlas.query.statements import find_maps
from atlas.stats.chosen_sets import ChosenSets
from atlas.stats.loudness import Loudness, loudness_of
from atlas.stats.overlap_null import (
    ANSWERS,
    NULLS,
    verdict,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

SIDES = ("source", "target")
TEXT = "text"


@dataclass(frozen=True, slots=True)
class ModalityOverlap:
    """Neurons in the top of two maps, or only in the first's, and how many chance would give.

    between: the two modalities. statistics: shared (how many both have), only (how many only the first has, if
    requested), top, chosen (how many the first's top has); expected, lift and p_value against any neurons that both
    maps score (`overlap_statistics`), with the prefix matched_ against those of the same layer and loudness
    (`matched_statistics`), and with mismatched_ against other concepts' (`mismatched_statistics`); mismatched_pairs:
    the number of overlaps with other concepts; where they are stored, with answer_ against the same answers after
    other prompts (`answer_statistics`). matched: what matched neurons have in common; "" where the model's other
    neurons are not known. verdict: the conclusion at 0.05.
    """

    neurons: NeuronSet
    between: tuple[str, ...]
    statistics: dict[str, float | None]
    matched: str
    verdict: str


@dataclass(frozen=True, slots=True)
class ConceptOverlaps:
    """One row per concept: shared or only, expected, lift, p_value, q_value, the same for the other nulls, and verdict.

    q_value: Benjamini and Hochberg's, over the rows. left_out: concepts that have maps of only one modality.
    """

    rows: pa.Table
    between: tuple[str, ...]
    matched: str
    left_out: tuple[str, ...]
    provenance: Provenance


def sides(side: str, sources: Sequence[str], targets: Sequence[str]) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """The side to compare, its two modalities, and the one of the other side if it was given.

    With two targets and at most one source the targets are compared, whatever `side` is.

    Raises:
        UsageError: not two different modalities of the side to compare, or several of the other.
    """
    if side not in SIDES:
        raise UsageError(f"maps are compared on one [[side]], source or target, not '{side}'")
    modalities = {"source": tuple(sources), "target": tuple(targets)}
    if side == "source" and len(targets) == 2 and len(sources) < 2:
        side = "target"
    other_side = SIDES[1 - SIDES.index(side)]
    between = modalities[side] or ("image", "text")
    if len(between) != 2 or len(set(between)) != 2:
        raise UsageError(f"give two different [[{side}s]], for example image,text")
    if len(modalities[other_side]) > 1:
        raise UsageError(
            f"with [[side={side}]], give one of the [[{other_side}s]]; [[side={other_side}]] compares two of them"
        )
    return side, between, {other_side: modalities[other_side][0]} if modalities[other_side] else {}


def of_concept(
    connection: Connection, spec: MapSpec, side: str, between: Sequence[str], amount: int | str, only: bool
) -> ModalityOverlap:
    """See `Atlas.shared` and `Atlas.only`. amount: of the best neurons of each side (`atlas.query.amount`)."""
    chosen = choose_several(connection, spec, side, between)
    top = count_of(amount, chosen[0]["neurons"])
    loudness = loudness_of(connection, chosen)
    require_kept(chosen, loudness, top)
    counts = _statistics(connection, spec, chosen, loudness, Rule("top", top), only) | {"top": top}
    of = compare_maps.OF_FIRST if only else compare_maps.OF_ALL
    rows = compare_maps.top_neurons([c["map_id"] for c in chosen], top=top, of=of).run(connection)
    rule = {"top": top, "only" if only else "shared": list(between), "side": side}
    conclusion = verdict(counts, _claim(only, between), caveat=_caveat(chosen, counts))
    neurons = NeuronSet(rows, provenance_of(chosen, rule))
    neurons.provenance["assumed"] += token_notes(connection, [c["model_id"] for c in chosen])
    return ModalityOverlap(neurons, tuple(between), counts, loudness.by, conclusion)


@dataclass(frozen=True, slots=True)
class SelectionOverlap:
    """How many neurons two selections share, the nulls, and the conclusion: see `ModalityOverlap`."""

    statistics: dict[str, float | None]
    matched: str
    verdict: str


def of_selections(
    connection: Connection, spec: MapSpec, name: str, values: Sequence[str], rule: Rule
) -> SelectionOverlap:
    """The overlap of a rule's neurons in two maps that differ in `name` (method, source or target), as `of_concept`.

    Every neuron that the rule needs must be stored, which `atlas.query.execute.require_kept` checks.
    """
    chosen = choose_several(connection, spec, name, values)
    loudness = loudness_of(connection, chosen)
    counts = _statistics(connection, spec, chosen, loudness, rule, only=False)
    return SelectionOverlap(counts, loudness.by, verdict(counts, "shared", caveat=_caveat(chosen, counts)))


def _statistics(
    connection: Connection, spec: MapSpec, chosen: Sequence[StoredMap], loudness: Loudness, rule: Rule, only: bool
) -> dict[str, float | None]:
    """The statistics against all available nulls."""
    answers = _answers(connection, spec, chosen, chosen[0]["concept"]).get(chosen[0]["concept"], [])
    sets = ChosenSets(connection, rule, [*chosen, *_other_concepts(connection, spec, chosen), *answers])
    counts = sets.overlap(connection, chosen, loudness, only) | sets.mismatched(chosen, only)
    return counts | sets.answered(chosen, answers, only)


def _answers(
    connection: Connection, spec: MapSpec, chosen: Sequence[StoredMap], concept: str | None = None
) -> dict[str, list[StoredMap]]:
    """By concept (one, or all): the maps of the same answers after other concepts' prompts, otherwise like these; only
    for concepts that have both."""
    by_concept: dict[str, list[StoredMap]] = {}
    for place, chosen_map in enumerate(chosen):
        names = same_but(chosen_map, {"method": f"{chosen_map['method']}.{ANSWER}", "concept": concept})
        for row in find_maps(MapSpec(**names, run=spec.run)).run(connection).to_pylist():
            maps = by_concept.setdefault(str(row["concept"]), [])
            if (
                row["component"] == chosen_map["component"] and len(maps) == place
            ):  # the first of each, if the earlier ones exist
                maps.append(StoredMap(row, ()))
    return {name: maps for name, maps in by_concept.items() if len(maps) == len(chosen)}


def _caveat(chosen: Sequence[StoredMap], counts: Mapping[str, float | None]) -> str | None:
    """A caveat where two sources explain the same words, and the effect of the words alone was not measured."""
    if f"{ANSWERS}p_value" in counts or len({c["source"] for c in chosen}) < 2 or chosen[0]["target"] != TEXT:
        return None
    return "unless by the answers' words alone (`atlas ingest --swap-answers` tests that)"


def _claim(only: bool, between: Sequence[str]) -> str:
    return f"{between[0]} has neurons of its own" if only else "shared"


def _other_concepts(connection: Connection, spec: MapSpec, chosen: Sequence[StoredMap]) -> list[StoredMap]:
    """The maps of every other concept that are otherwise like one of these."""
    maps = []
    for chosen_map in chosen:
        same = {name: chosen_map[name] for name in EVERYTHING if name != "component"}
        maps += choose_concepts(connection, MapSpec(**same, run=spec.run))
    return [c for c in maps if c["concept"] != chosen[0]["concept"] and c["component"] == chosen[0]["component"]]


def of_concepts(
    connection: Connection,
    spec: MapSpec,
    side: str,
    between: Sequence[str],
    amount: int | str,
    only: bool,
    concepts: Sequence[str] = (),
) -> ConceptOverlaps:
    """See `atlas.questions.shared`, over several concepts. amount: as in `of_concept`."""
    notes: list[str] = []
    if side == "target" and spec.source is None:  # pictures may be requested in text only
        pinned = choose_several(connection, spec, side, between)[0]
        spec = replace(spec, source=str(pinned["source"]))
        notes = [note for note in pinned.defaults if note.startswith("source=")]
    first = choose_concepts(connection, replace(spec, **{side: between[0]}), concepts)
    same = {name: first[0][name] for name in EVERYTHING if name not in (side, "component")}
    second = choose_concepts(connection, replace(spec, **same, **{side: between[1]}), concepts)
    pairs = {c["concept"]: [c] for c in first}
    for c in second:
        pairs.setdefault(c["concept"], []).append(c)
    both = {concept: maps for concept, maps in pairs.items() if len(maps) == 2}
    if not both:
        raise UsageError(f"no concept has maps of both {' and '.join(between)} (`atlas concepts` lists what is stored)")
    chosen = [c for maps in both.values() for c in maps]
    chosen[0] = StoredMap(chosen[0].row, (*notes, *chosen[0].defaults))
    top = count_of(amount, chosen[0]["neurons"])
    loudness = loudness_of(connection, chosen)
    require_kept(chosen, loudness, top)
    pair = [first[0], second[0]]
    answers = {name: maps for name, maps in _answers(connection, spec, pair).items() if name in both}
    everyone = [*chosen, *_other_concepts(connection, spec, pair), *chain(*answers.values())]
    sets, rows = ChosenSets(connection, Rule("top", top), everyone), []
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
        tested = [row for row in rows if row.get(f"{prefix}p_value") is not None]
        if tested:
            values = false_discovery_control([row[f"{prefix}p_value"] for row in tested])
            for row, q in zip(tested, values, strict=True):
                row[f"{prefix}q_value"] = float(q)


def require_kept(chosen: Sequence[StoredMap], loudness: Loudness, top: int) -> None:
    """Refuse maps that do not keep the neurons that a comparison needs.

    Raises:
        UsageError: with how many one keeps.
    """
    for c in chosen:
        if c["kept"] < c["neurons"] and (top > c["kept"] or not loudness.covers(chosen)):
            raise UsageError(
                f"the map of {c['concept']} by {c['method']} has only its best {c['kept']} of {c['neurons']} neurons, "
                "too few for this comparison; use a smaller [[top]], or run `atlas ingest --keep all`"
            )
