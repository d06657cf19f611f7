"""What two edits do differently."""

from __future__ import annotations

from pathlib import Path

from atlas.edits import library
from atlas.edits.compose import difference
from atlas.query.answer import Answer
from atlas.query.option import described, required
from atlas.query.question import Question
from atlas.store.database import open_readonly


@described
class EditDiff(Question[Answer]):
    """What two edits do differently: the neurons that only one of them changes, or both do otherwise.

    Raises:
        UsageError: no such edit, or edits of two models.
    """

    examples = ("atlas edit diff no-dog@1 no-dog@2",)

    first: str = required("The edit: name, or name@version.", argument=True, kw_only=False)
    second: str = required("The other edit.", argument=True, kw_only=False)

    def answer(self, path: Path) -> Answer:
        with open_readonly(path):  # there is an atlas
            one, other = (library.read(path, label).data for label in (self.first, self.second))
        shared = len(set(one.neurons) & set(other.neurons))
        note = f"{one.label}: {len(one.neurons)} neurons, {other.label}: {len(other.neurons)}, in both: {shared}"
        facts = {"first": one.label, "second": other.label, "shared": shared}
        return Answer(difference(one, other), facts=facts, notes=[note])
