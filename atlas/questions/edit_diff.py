"""How two edits differ."""

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
    """How two edits differ: the neurons that only one of them changes, or that they change differently.

    Raises:
        UsageError: no such edit, or edits of two models.
    """

    examples = ("atlas edit diff no-dog@1 no-dog@2",)

    first: str = required("The edit: name, or name@version.", argument=True, kw_only=False)
    second: str = required("The other edit.", argument=True, kw_only=False)

    def answer(self, path: Path) -> Answer:
        with open_readonly(path):  # there is an atlas
            first_edit, second_edit = (library.read(path, label).data for label in (self.first, self.second))
        shared = len(set(first_edit.neurons) & set(second_edit.neurons))
        counts = [f"{edit.label}: {len(edit.neurons)} neurons" for edit in (first_edit, second_edit)]
        note = f"{', '.join(counts)}, in both: {shared}"
        facts = {"first": first_edit.label, "second": second_edit.label, "shared": shared}
        return Answer(difference(first_edit, second_edit), facts=facts, notes=[note])
