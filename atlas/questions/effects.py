"""Measured effects of edits."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import unknown
from atlas.query.answer import Answer
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.query.run_record import run_named
from atlas.query.statements import effects
from atlas.store.database import open_readonly


@described
class Effects(Question[Answer]):
    """What edits and ablations were measured to do: one row a source, task, subset, condition and metric of a run.

    value, and its 95 % interval from low to high; examples; seeds of the random control.

    Raises:
        UsageError: no effect of the edit or concept was measured, or no run or several runs have the prefix.
    """

    examples = ("atlas effects --edit no-dog@1",)

    edit: str | None = option("Only of this edit: name@version.", default=None)
    concept: str | None = option("Only about this concept.", "--concept", "-c", default=None)
    run: str | None = option("Only of this run, by the beginning of its id.", default=None)

    def answer(self, path: Path) -> Answer:
        with open_readonly(path) as connection:
            run = None if self.run is None else run_named(connection, self.run)
            statement = effects(run, self.edit, self.concept)
            rows = statement.run(connection)
            if not rows.num_rows:
                for name in ("edit", "concept"):
                    measured = set(effects(run).run(connection)[name].to_pylist()) - {None}
                    if (value := getattr(self, name)) is not None and value not in measured:
                        raise unknown(f"measured {name}", value, measured, "atlas effects")
        return Answer(rows, sql=statement.explained())
