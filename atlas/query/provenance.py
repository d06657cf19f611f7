"""Where neurons came from, as plain objects that are stored with selections and edits and printed with answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast

from atlas.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


class MapOrigin(TypedDict):
    """One stored map that neurons were taken from."""

    run_id: str
    model: str
    fingerprint: str
    dataset: str
    concept: str
    method: str
    source: str
    target: str
    reduce: str
    tap: str
    parameters: str
    examples: int
    neurons: int


class Provenance(TypedDict, total=False):
    """What an answer, a set of neurons or an edit came from. Every key is optional; keys of older files stay.

    fingerprint: of the model's weights; None where neurons are of several models. model: its name. maps: the stored
    maps. runs: the runs whose numbers an answer has, where no map says it. selection: the rule that chose among
    their neurons, or the name of a saved selection. assumed: what was left open and filled in. next: the cursor
    behind the last row. labels: the run and the label of labelled neurons. models, concepts: of neurons of one
    model that are matched with those of another.

    set: `and`, `minus`, `or` of `left` and `right`, or the `complement` of `of`. of: the neurons that a set, a
    selection or an edit was made of. edit: the label of the edit whose neurons these are.

    Of edits: change (what became of the neurons, see `atlas.edits.kinds.ChangeKind.plain`), solver (what computed it,
    with `name`, `params`, `swap`, `report`), asked (the one question that it was solved on), dataset, options and job
    (the examples that it was solved on), concept (what it is about, where no map says it), composed, conflict and parts
    (the edits that it is composed of, and their provenance), imported (its label where it came from).
    """

    fingerprint: str | None
    model: str
    models: list[dict[str, Any]]
    concepts: list[str]
    maps: list[MapOrigin]
    runs: list[str]
    selection: dict[str, Any] | str
    assumed: list[str]
    next: str | None
    labels: dict[str, Any]
    set: str
    left: Provenance
    right: Provenance
    of: Provenance
    edit: str
    change: dict[str, Any]
    solver: dict[str, Any]
    asked: dict[str, Any]
    dataset: str
    options: dict[str, Any]
    job: dict[str, Any]
    concept: str | None
    composed: list[str]
    conflict: str
    parts: list[Provenance]
    imported: str


def without_runs(rows: pa.Table) -> tuple[pa.Table, list[str]]:
    """The rows without their column `runs`, a list of ids, and all of these ids."""
    found = {run for runs in rows["runs"].to_pylist() for run in runs or ()}
    return rows.drop_columns(["runs"]), sorted(found)


def sets_in(provenance: Provenance) -> Iterator[Provenance]:
    """The provenance itself, then that of every set of neurons that it was made of."""
    yield provenance
    for side in (provenance.get("left"), provenance.get("right"), provenance.get("of")):
        if isinstance(side, Mapping):  # files that were shared may have anything there
            yield from sets_in(side)


def edits_in(provenance: Provenance) -> Iterator[Provenance]:
    """The provenance of an edit, then that of every edit that it was composed of."""
    yield provenance
    for part in provenance.get("parts", ()):
        yield from edits_in(part)


def maps_of(provenance: Provenance) -> Iterator[MapOrigin]:
    """Every map that neurons came from, through sets of neurons and composed edits."""
    for neurons in sets_in(provenance):
        yield from neurons.get("maps", ())
        for part in neurons.get("parts", ()):
            yield from maps_of(part)


def concepts_of(provenance: Provenance) -> set[str]:
    """The concepts that neurons are about, by their maps. The neurons of `dog - cat` are about dog: what was taken away
    does not count."""
    concepts = {origin["concept"] for origin in provenance.get("maps", ())}
    sides = [provenance.get("left"), provenance.get("of"), *provenance.get("parts", ())]
    if provenance.get("set") != "minus":
        sides.append(provenance.get("right"))
    for side in sides:
        if isinstance(side, Mapping):  # files that were shared may have anything there
            concepts |= concepts_of(cast(Provenance, side))
    return concepts


def fingerprint_of(provenance: Provenance) -> str:
    """The weights of the model whose neurons these are.

    Raises:
        UsageError: they are of several models.
    """
    if (fingerprint := provenance.get("fingerprint")) is None:
        raise UsageError("these neurons belong to several models; choose one with [[model]]")
    return fingerprint


def defaults_of(provenance: Provenance) -> tuple[str, ...]:
    """What was left open and filled in, each once, for a set of neurons and for those that it is made of."""
    return tuple(dict.fromkeys(default for neurons in sets_in(provenance) for default in neurons.get("assumed", ())))
