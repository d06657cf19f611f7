"""Everything that determined a run's numbers."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.option import described, required
from atlas.query.question import Question
from atlas.query.run_record import facts


class Record(Answer):
    """One run: a row for each fact."""

    @property
    def heading(self) -> str:
        run = self.facts["run"]
        over = " over ".join(filter(None, (run["model"]["name"], run["dataset"]["name"])))
        return ", ".join(filter(None, (f"run {run['run_id'][:8]}: {run['kind']}", over, run["status"])))

    def __repr__(self) -> str:
        return f"Record({self.heading})"


@described
class Run(Question[Record]):
    """Everything that made a run's numbers: model, weights, dataset, job with all parameters, versions, machine, cost.

    One row a fact, its name (`job.seed`) and its value as text; `facts["run"]` is the whole record.

    Raises:
        UsageError: no run or several runs have the prefix.
    """

    examples = ("atlas runs show 298a",)

    run: str = required("The run, by the beginning of its id.", argument=True, kw_only=False)

    def answer(self, path: Path) -> Record:
        record = facts(path, self.run)
        return Record(record.table(), facts={"run": record.facts})
