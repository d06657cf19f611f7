"""What a model answers to a few questions without and with an edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from atlas.edits.edited_answers import CONDITIONS, RANDOM, EditedAnswers
from atlas.edits.library import StoredEdit
from atlas.query.option import described, option, required
from ingest.requests.edit_job import job_of
from ingest.requests.options import EXECUTION, JOB, DrawingOptions, ExampleOptions, LoadOptions, ModelOptions
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    from ingest.evaluate.edited_answers import Asked


@described
class EditAnswers(Request["EditedAnswers"], LoadOptions, DrawingOptions, ExampleOptions, ModelOptions):
    """A model's whole answers to a few held-out questions: before, with an edit, and with the same change made to as
    many random neurons.

    One row a question: the three answers, in words or, as [picture], drawn; the reference where the dataset has one;
    subset, whether it is about the edit's concept or about others. Questions are drawn by the seed, whatever their
    answers are, of each picture or fact one. Nothing is stored; what an edit does on average: `atlas evaluate`.

    Raises:
        UsageError: the model's weights are not the edit's; nothing to ask.
    """

    examples: ClassVar[tuple[str, ...]] = ("atlas plot edit-answers no-dog --out answers.png",)

    edit: str | StoredEdit = required("The edit: name, or name@version.", argument=True, kw_only=False)
    questions: int = option(
        "At most so many of each source about the edit's concept, and as many about others.", default=2, least=1
    )
    split: str | None = option(
        "Which examples: find, held_out or all. [default: held_out; all of a dataset that the neurons were not found "
        "on]",
        default=None,
        of=JOB,
    )
    controls: str | None = option(
        "Random neurons of the same layers, or layers and mean |activation|: layers or activation. [default: "
        "activation, where it is stored]",
        default=None,
    )
    no_random: bool = option("Leave out the random neurons.", default=False)
    batch_size: int = option("Examples in one forward pass.", default=16, of=EXECUTION, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.edit, StoredEdit):
            object.__setattr__(self, "edit", self.edit.label)

    def perform(self, path: Path, progress: Progress = silent) -> EditedAnswers:
        import pyarrow as pa

        from atlas.edits.edited_answers import ROWS
        from atlas.edits.library import read

        edit = read(path, str(self.edit)).data  # before torch is imported
        from ingest.evaluate.edited_answers import ask

        job = job_of(path, edit, self.content())
        asked = ask(
            path,
            edit,
            job,
            self.execution(),
            number=self.questions,
            controls=self.controls,
            control=not self.no_random,
        )
        table = pa.Table.from_pylist(asked.rows, schema=ROWS)
        facts: dict[str, Any] = {"edit": edit.label, "model": asked.model, "fingerprint": asked.fingerprint}
        facts |= {"concept": asked.concept, "neurons": len(set(edit.neurons)), "dataset": job.dataset}
        facts["questions"] = {f"{source}, {subset}": n for (source, subset), n in sorted(asked.counts.items())}
        shown = [name for name in CONDITIONS if name != RANDOM or table[name].null_count < len(table)]
        brief = table.select(["source", "subset", "prompt", *shown])
        answer = EditedAnswers(table, facts=facts, notes=_notes(asked), brief=brief)
        answer.seen, answer.drawn = asked.seen, asked.drawn
        answer.question = self
        return answer


def _notes(asked: Asked) -> list[str]:
    """What was left out, and how often the random neurons and the edit changed an answer."""
    skipped = [f"skipped {pointer}: {reason}" for pointer, reason in asked.skipped["media"].items()]
    notes = [*skipped, *asked.notes]
    for name, said in (("edit", "edited"), ("random neurons", RANDOM)):
        drawn = {example for example, condition in asked.drawn if condition in ("before", said)}
        measured = [row for row in asked.rows if said in row and row["example"] not in drawn]
        if measured:
            changed = sum(row[said] != row["before"] for row in measured)
            notes.append(f"with the {name}, {changed} of {len(measured)} answers in words are others than before")
    return notes
