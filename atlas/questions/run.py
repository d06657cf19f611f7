"""Everything that made a run's numbers."""

from __future__ import annotations

from pathlib import Path

from atlas.query.answer import Answer
from atlas.query.option import described, required
from atlas.query.question import Question
from atlas.query.run_record import facts


@described
class Run(Question[Answer]):
    """Everything that made a run's numbers: model, weights, dataset, job with all parameters, versions, machine, cost.

    One row a fact, its name (`job.seed`) and its value as text; `facts["run"]` is the whole record.

    Raises:
        UsageError: no run begins so, or several do.
    """

    examples = ("atlas runs show 298a",)

    run: str = required("The run, by the beginning of its id.", argument=True, kw_only=False)

    def answer(self, path: Path) -> Answer:
        found = facts(path, self.run)
        return Answer(found.table(), facts={"run": found.facts})
