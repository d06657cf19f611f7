"""The differences between two runs."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.option import described, required
from atlas.query.question import Question
from atlas.query.run_record import difference


@described
class RunDiff(Question[Answer]):
    """What two runs differ in, one row a fact: the job, the weights, the dataset, the versions, the outcome.

    Raises:
        UsageError: no run or several runs have the prefix.
    """

    examples = ("atlas runs diff 298a f815",)

    first: str = required("The run, by the beginning of its id.", argument=True, kw_only=False)
    second: str = required("The other run.", argument=True, kw_only=False)

    def answer(self, path: Path) -> Answer:
        rows = difference(path, self.first, self.second)
        count = rows.num_rows
        note = f"{count} facts differ" if count else "the runs do not differ in anything that is recorded"
        return Answer(rows, notes=[note])
