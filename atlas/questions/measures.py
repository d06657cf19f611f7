"""Measures of layers and models: geometry and properties."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import unknown
from atlas.query.answer import Answer
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.query.run_record import run_named
from atlas.query.statements import measures
from atlas.store.database import open_readonly


@described
class Measures(Question[Answer]):
    """What `atlas geometry` and `atlas properties` stored: one row a measure, and what it is of (method, concept,
    source, layer, two representations, condition), with its 95 % interval from low to high.

    Raises:
        UsageError: no run or several runs have the prefix, or no measure has the name.
    """

    examples = ("atlas measures --name cka",)

    run: str | None = option("Only of this run, by the beginning of its id.", default=None)
    name: str | None = option("Only this measure, and what chance gives it where that is stored.", default=None)

    def answer(self, path: Path) -> Answer:
        with open_readonly(path) as connection:
            run = None if self.run is None else run_named(connection, self.run)
            statement = measures(run, self.name)
            rows = statement.run(connection)
            if self.name is not None and not rows.num_rows:
                names = measures(run, None).run(connection)["name"].to_pylist()
                raise unknown("measure", self.name, names, "atlas measures")
            return Answer(rows, sql=statement.explained())
