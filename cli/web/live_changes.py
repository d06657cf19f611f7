"""What is done to neurons on the live page: neurons or sets of them scaled, and stored edits; and how that is saved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.edits import library, set_expression
from atlas.edits.compose import SEQUENCE, compose
from atlas.edits.edit import Edit, Intervention
from atlas.edits.kinds import ChangeKind, ablate, make_changes, scale
from atlas.edits.reference_values import tap_of
from atlas.errors import UsageError
from atlas.query import saved
from atlas.query.neuron_set import NeuronSet, neuron_set

if TYPE_CHECKING:
    from atlas.live.model import LiveModel
    from ingest.requests.heatmap_model import StoredModel

MOST = 20
"""Changes at once."""

LARGEST_FACTOR = 100.0

ADDRESS = re.compile(r"(?:[\w.]+:)?\d{1,4}/\d{1,7}")


@dataclass(frozen=True, slots=True)
class LiveChange:
    """Neurons, and what becomes of them: they are scaled (`kind`), or a stored edit does it (`edit`). random: the same
    done to random neurons, which then acts instead."""

    neurons: NeuronSet
    kind: ChangeKind | None = None
    edit: Edit | None = None
    random: Intervention | None = None

    @property
    def intervention(self) -> Intervention:
        """What is done to the model."""
        if self.edit is not None:
            return self.edit.intervention
        assert self.kind is not None
        distinct = tuple(dict.fromkeys(self.neurons.neurons))
        return Intervention(make_changes(distinct, self.kind), tap_of(self.neurons.provenance))


def changes_of(path: Path, model: StoredModel, given: object) -> list[LiveChange]:
    """The changes of a request. Those by the factor 1 are left out, as they change nothing.

    given: a list of `{"neurons": "3/117, 5/2" or "dog - animal", "factor": 0}` and `{"edit": "no-dog@1"}`.

    Raises:
        UsageError: something else, a name that does not exist, or neurons of another model.
    """
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise UsageError("[[changes]] is a list of objects with `neurons` and `factor`, or with `edit`")
    if len(given) > MOST:
        raise UsageError(f"at most {MOST} changes at once")
    changes = [_change(path, model, one) for one in given if one.get("factor") != 1]
    for change in changes:
        if change.neurons.provenance.get("fingerprint") != model.fingerprint:
            raise UsageError(f"these neurons are of other weights than those of {model.name}, the live model")
    return changes


def _change(path: Path, model: StoredModel, given: Mapping[str, Any]) -> LiveChange:
    """One change of a request, whose factor is not 1."""
    label, text, factor = given.get("edit"), given.get("neurons"), given.get("factor", 0)
    if isinstance(label, str) and text is None:
        stored = library.read(path, label)
        return LiveChange(stored.neurons, edit=stored.data)
    if not isinstance(text, str) or not text.strip() or label is not None:
        raise UsageError("a change has [[neurons]] (3/117, or a saved selection) and a [[factor]]; or an [[edit]]")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not abs(factor) <= LARGEST_FACTOR:
        raise UsageError(f"[[factor]] is a number from -{LARGEST_FACTOR:g} to {LARGEST_FACTOR:g}")
    return LiveChange(neurons_of(path, model, text), scale(float(factor)) if factor else ablate())


def neurons_of(path: Path, model: StoredModel, text: str) -> NeuronSet:
    """The neurons of addresses, or of a set expression over selections and edits.

    Raises:
        UsageError: neither, or a neuron that the model does not have.
    """
    from ingest.requests.heatmap_model import addressed

    parts = re.split(r"[,\s]+", text.strip().strip(","))
    if not all(map(ADDRESS.fullmatch, parts)):
        return set_expression.of_expression(path, text)
    found = [addressed(model, part) for part in parts]
    return neuron_set([neuron for neurons, _ in found for neuron in neurons], found[0][1])


def of_random(
    path: Path, live: LiveModel, changes: Sequence[LiveChange], seed: int, notes: list[str]
) -> list[LiveChange]:
    """The same changes made to as many random neurons of the same layers, of about the same activation where the atlas
    has that: what `atlas evaluate` compares an edit with.

    notes: what there is to say about them is added.

    Raises:
        UsageError: whole layers are changed, which no random neurons are beside.
    """
    from ingest.evaluate.controls import controls_for
    from ingest.evaluate.edit import on_random_neurons, own_values, whole_layers

    drawn = []
    for change in changes:
        done = change.intervention
        if whole_layers(done.neurons, live.layout.width):
            raise UsageError("a whole layer is changed, so there are no other neurons of it to compare with")
        controls = controls_for(path, live, None, done.tap, notes=notes)
        values = None if change.edit is None else own_values(path, change.edit)
        drawn.append(replace(change, random=on_random_neurons(done, controls, seed, values)))
    return drawn


@contextmanager
def changed(live: LiveModel, changes: Sequence[LiveChange]) -> Iterator[None]:
    """The model with all changes while the block lasts; of a neuron that two change, the first acts first."""
    from atlas.live.edit.apply import changing

    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(changing(live, change.random or change.intervention))
        yield


def save_selection(path: Path, name: str, changes: Sequence[LiveChange], note: str | None) -> str:
    """Save the neurons of all changes under a name, and return it.

    Raises:
        UsageError: a bad name or one that exists, or no neurons.
    """
    _require(changes)
    return saved.save(path, name, reduce(or_, (change.neurons for change in changes)), note=note).name


def save_edit(path: Path, name: str, changes: Sequence[LiveChange], note: str | None) -> str:
    """Save the changes as one edit, and return its label.

    Raises:
        UsageError: a bad name, or changes that are no one change.
    """
    _require(changes)
    [first, *others] = changes
    if not others:
        if first.kind is None:
            assert first.edit is not None
            raise UsageError(f"this is the edit {first.edit.label}, which is stored already")
        return library.create(path, name, first.neurons, first.kind, note=note).label
    fingerprint = str(first.neurons.provenance["fingerprint"])
    model = library.model_row(path, fingerprint)
    edits = [change.edit or _unstored(change, model, number) for number, change in enumerate(changes, 1)]
    about: Any = {
        "fingerprint": fingerprint,
        "composed": [edit.label for edit in edits],
        "conflict": SEQUENCE,
        "parts": [edit.provenance for edit in edits],
    }
    return library.new(path, name, compose(edits, SEQUENCE), about, model=model, note=note).label


def _unstored(change: LiveChange, model: Mapping[str, Any], number: int) -> Edit:
    """A change as an edit, to be composed with others."""
    assert change.kind is not None
    provenance: Any = {**change.neurons.provenance, "change": change.kind.plain()}
    return Edit(f"change-{number}", 0, model, None, provenance, change.intervention, "")


def _require(changes: Sequence[LiveChange]) -> None:
    if not changes:
        raise UsageError("there is no change to save; add neurons whose factor is not 1")
