"""Score neurons, and store the maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.option import COMMAS, PAIRS, by_place, described, option
from ingest.requests.left_out import left_out
from ingest.requests.named_dataset import NamedDataset
from ingest.requests.options import (
    EXECUTION,
    JOB,
    DataOptions,
    DrawingOptions,
    ExampleOptions,
    InpaintingOptions,
    LoadOptions,
    ModelOptions,
    ScoringOptions,
)
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    import pyarrow as pa

    from ingest.job import Job


@described
class Ingest(
    Request[Answer], LoadOptions, DrawingOptions, InpaintingOptions, ScoringOptions, ExampleOptions, ModelOptions
):
    """Score every neuron of a model for concepts, by all methods on one pass, and store the maps.

    The same job is never run twice; an interrupted one goes on where it stopped. The answer is the run's record;
    `facts` has `run_id`, `fresh` (False where the job had been done before) and `outcome`.

    Raises:
        UsageError: an unknown name, or a value that cannot be.
        Unsupported: the model, or this machine, cannot do it.
        StoreUnavailable: there is no atlas, or another process runs the same job.
    """

    model: str | None = by_place(ModelOptions, "model", default=None, kw_only=False)
    dataset: str | NamedDataset | None = by_place(DataOptions, "dataset", default=None, kw_only=False)
    methods: Sequence[str] | None = option(
        "Attribution methods, separated by commas. [default: contribution]", default=None, several=COMMAS
    )
    param: Mapping[str, Any] | None = option("METHOD.KEY=VALUE, or @FILE as value.", default=None, several=PAIRS)
    candidates: Sequence[str] | None = option(
        "METHOD:AMOUNT, several with commas: contribution:2%,random:1%. Exact ablation scores only these methods' best "
        "neurons, in a run of its own after theirs.",
        default=None,
        several=COMMAS,
    )
    split: str | None = option("find (default), held_out or all.", default=None, of=JOB)
    max_new_tokens: int | None = option("Length of answers.", default=None, of=JOB, least=1)
    exemplars: int | None = option("Examples kept for each neuron.", default=None, of=JOB, least=0)
    batch_size: int = option("Examples in one forward pass.", default=16, of=EXECUTION, least=1)
    bad_media: str = option("skip (and report) or fail at a picture that does not open.", default="skip", of=EXECUTION)
    job: Path | None = option("A TOML job file; options given beside it win.", default=None, argument=True)

    def content(self) -> dict[str, Any]:
        from ingest.job import read_toml

        content = {} if self.job is None else read_toml(Path(self.job))
        content |= super().content()
        if self.methods is not None:
            content["methods"] = {name: content.get("methods", {}).get(name, {}) for name in self.methods}
        for name, value in (self.param or {}).items():
            method, dot, key = name.partition(".")
            if not dot or method not in content.get("methods", {}):
                raise UsageError(
                    f"[[param={name}=...]] needs a method of this job before the dot, as in contribution.norm=true"
                )
            content["methods"][method] = {**content["methods"][method], key: value}
        return content

    def plan(self) -> pa.Table:
        """What it would cost, one row a step, of both runs where there are candidates; no weight is loaded."""
        import pyarrow as pa

        from ingest.job import make_job

        job, execution = make_job(self.content()), self.execution()
        if self.candidates is None:
            from ingest.run.plan import plan

            return pa.Table.from_pylist(plan(job, execution))
        from ingest.run.candidates import read_candidates
        from ingest.run.plan_candidates import plan_with_candidates

        return pa.Table.from_pylist(plan_with_candidates(job, read_candidates(self.candidates, job), execution))

    def perform(
        self,
        path: Path,
        progress: Progress = silent,
        begin: Callable[[Job, int], None] = lambda job, examples: None,
    ) -> Answer:
        """begin: is told the whole job and how many examples it has, before the model is loaded. progress: its phase is
        `decoding` where it counts the layers whose neurons are decoded, and no longer examples."""
        from atlas.questions.run import Run
        from ingest.job import make_job
        from ingest.run.ingest import ingest

        job, execution, notes = make_job(self.content()), self.execution(), []
        if self.candidates is not None:
            from ingest.run.candidates import read_candidates, with_candidates, without_scored

            rules = read_candidates(self.candidates, job)
            first = ingest(path, without_scored(job), execution, progress, begin, progress.phase)
            job, count = with_candidates(path, job, first.run_id, rules)
            notes = [f"run {first.run_id[:8]} has the other methods; {count:,} of their best neurons were ablated"]
        done = ingest(path, job, execution, progress, begin, progress.phase)
        record = Run(done.run_id).ask(path)
        record.facts |= {"run_id": done.run_id, "fresh": done.fresh, "outcome": done.outcome}
        record.brief = _brief(record.facts["run"].get("outcome") or {})
        before = () if done.fresh else (f"run {done.run_id[:8]} was done before; nothing to do",)
        record.notes = (
            *notes,
            *left_out(done.outcome.get("skipped"), path, done.run_id),
            *_notes(done.outcome),
            *before,
        )
        return record


def _brief(outcome: Mapping[str, Any]) -> pa.Table:
    """What a notebook shows of the run: how many maps and examples, what was skipped, and what it cost."""
    import pyarrow as pa

    row = {name: outcome.get(name) for name in ("maps", "examples", "seconds")}
    row["skipped"] = len((outcome.get("skipped") or {}).get("media", ()))
    peak = outcome.get("peak_memory_bytes")
    row["memory_mib"] = None if peak is None else round(peak / 2**20)
    return pa.Table.from_pylist([row])


def _notes(outcome: Mapping[str, Any]) -> list[str]:
    """What the methods had to say, and which concepts have no map of one."""
    lines = [str(note) for note in outcome.get("notes", ())]
    for method, lacking in outcome.get("empty", {}).items():
        lines.append(f"{method}: no neuron passed for {', '.join(lacking)}; its parts have maps (`atlas concepts`)")
    return lines
