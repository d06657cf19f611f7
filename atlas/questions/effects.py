"""What edits were measured to do."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from atlas.query.answer import Answer
from atlas.query.option import described, option
from atlas.query.question import Question
from atlas.questions._lists import everything


@described
class Effects(Question[Answer]):
    """What edits and ablations were measured to do: one row a source, task, subset, condition and metric of a run.

    value, and its 95 % interval from low to high; examples; seeds of the random control.
    """

    examples = ("atlas effects --edit no-dog@1",)

    edit: str | None = option("Only of this edit: name@version.", default=None)
    concept: str | None = option("Only about this concept.", "--concept", "-c", default=None)
    run: str | None = option("Only of this run, by the beginning of its id.", default=None)

    def answer(self, path: Path) -> Answer:
        found = everything(path, "effects")
        rows = found.to_pylist()
        given = {name: value for name in ("edit", "concept") if (value := getattr(self, name)) is not None}
        keep = [
            all(row[name] == value for name, value in given.items()) and row["run"].startswith((self.run or "")[:8])
            for row in rows
        ]
        return Answer(found.table.filter(pa.array(keep, pa.bool_())))  # of no rows, Arrow could not tell the type
