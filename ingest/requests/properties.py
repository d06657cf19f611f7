"""What the papers claim of the neurons that a method finds, measured beside chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.option import PAIRS, described, option
from atlas.questions.measures import Measures
from ingest.requests.left_out import left_out
from ingest.requests.options import EXECUTION, ExampleOptions, InpaintingOptions, LoadOptions, ModelOptions
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request


@described
class Properties(Request[Answer], LoadOptions, InpaintingOptions, ExampleOptions, ModelOptions):
    """Sensitivity, invariance to shuffled image tokens and to other pictures, and exclusivity of the best neurons of a
    method, beside as many random ones. Stored as measures; `concepts` says which are compared with each other.

    One row a source, concept, measure, number of neurons and condition; `facts` has `run_id`, `fresh` (False where the
    same had been measured before) and the `model`.

    Raises:
        UsageError: a method without a map for each example, a concept that is not among those compared, or numbers
            that are none.
    """

    method: str = option("The attribution method.", default="contribution")
    only: str | None = option("Only this concept.", "--only", "-c", default=None)
    param: Mapping[str, Any] | None = option("KEY=VALUE of the method; repeatable.", default=None, several=PAIRS)
    top: str | int | Sequence[int] = option(
        "How many of the best neurons: one or several numbers.", "--top", "-n", default="10,50"
    )
    batch_size: int = option("Examples in one forward pass.", default=16, of=EXECUTION, least=1)

    def perform(self, path: Path, progress: Progress = silent) -> Answer:
        from ingest.analyse.properties import measure
        from ingest.job import make_job

        numbers = self._numbers()
        job = make_job({"methods": {self.method: dict(self.param or {})}} | self.content())
        if self.only is not None and job.concepts and self.only not in job.concepts:
            raise UsageError(
                f"[[only={self.only}]] is not among the [[concepts]] {','.join(job.concepts)}; add it there"
            )
        done = measure(path, job, self.execution(), numbers, progress)
        notes = left_out(done.skipped, path, done.run_id)
        if not done.fresh:
            notes.append(f"run {done.run_id[:8]} was done before; these are its stored measures")
        rows = [row for row in done.rows.to_pylist() if self.only is None or row["concept"] == self.only]
        facts = {"run_id": done.run_id, "fresh": done.fresh, "model": job.model}
        table = pa.Table.from_pylist(rows, schema=done.rows.schema)
        answer = Answer(table, facts=facts, notes=notes, brief=pa.Table.from_pylist(_brief(rows)))
        answer.question = Measures(run=done.run_id)
        return answer

    def _numbers(self) -> list[int]:
        """How many neurons, each number once."""
        given = (
            self.top.split(",") if isinstance(self.top, str) else [self.top] if isinstance(self.top, int) else self.top
        )
        try:
            return sorted({int(number) for number in given})
        except ValueError:
            raise UsageError(f"[[top={self.top}]] are not numbers; write 10, or 10,50,100") from None


def _brief(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line a source, concept, measure and k: the value with its interval, then what others and chance give."""
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["source"], row["concept"], row["name"], row["first"])
        line = lines.setdefault(key, dict(zip(("source", "concept", "property", "of"), key, strict=True)))
        shown = f"{row['value']:.2f}"
        if row["low"] is not None and row["condition"] == "before":
            shown += f" [{row['low']:.2f}, {row['high']:.2f}]"
        line[{"before": "value", "others": "other_concepts", "random": "chance"}[row["condition"]]] = shown
    names = ("source", "concept", "property", "of", "value", "other_concepts", "chance")
    return [{name: line.get(name) for name in names} for line in lines.values()]
