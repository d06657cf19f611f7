"""One run while it lasts: what every command that stores a run begins and ends with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from atlas.live.model import LiveModel
from ingest.data.examples import Dataset, Example
from ingest.job import Execution, Job, open_dataset
from ingest.run import arrow_tables, prepare
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.map_step import note_stored_portions
from ingest.run.record import DerivedRun, RunRecord
from ingest.run.resolve import resolved


@dataclass(frozen=True)
class PreparedJob:
    """A job with everything filled in, its dataset, and the examples that it takes of it, in a fixed order."""

    job: Job
    dataset: Dataset
    examples: Sequence[Example]

    @property
    def numbered(self) -> list[tuple[int, Example]]:
        """The examples with their numbers."""
        return list(enumerate(self.examples))


def prepare_job(job: Job, execution: Execution) -> PreparedJob:
    """What a job asks of its dataset; no weight of the model is loaded.

    Raises:
        UsageError: an unknown dataset, concept, source or task, or no example.
    """
    dataset = open_dataset(job)
    job = prepare.completed(job, dataset, execution)
    return PreparedJob(job, dataset, prepare.collect(job, dataset))


class Session:
    """A run that was begun. done: the same run is stored already, and nothing is to be computed."""

    def __init__(self, record: RunRecord, done: bool):
        self.record, self.done = record, done

    @property
    def run_id(self) -> str:
        return self.record.run_id

    def finish(self, outcome: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
        """Store the run's tables and what came of it; the whole outcome, with seconds and memory."""
        return self.record.finish(outcome, tables)


class ModelSession(Session):
    """A run of a live model on a dataset's examples."""

    def __init__(self, record: RunRecord, done: bool, asked: PreparedJob, live: LiveModel, execution: Execution):
        super().__init__(record, done)
        self.asked, self.live, self.execution = asked, live, execution

    @property
    def portions(self) -> Path:
        """Where an interrupted run keeps what it goes on from."""
        return self.record.folder / "shards"

    @cached_property
    def encoder(self) -> ExampleEncoder:
        """The run's examples for the model; answers that are stored are not made again."""
        return ExampleEncoder(
            self.live,
            self.asked.dataset,
            self.asked.job,
            bad_media=self.execution.bad_media,
            responses=self.record.responses,
        )

    def finish(self, outcome: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
        """The same, with the examples, the answers that were made for them, and what was left out."""
        examples = {
            "examples": arrow_tables.examples_table(self.asked.examples),
            "responses": arrow_tables.responses_table(self.encoder.made),
        }
        counts = {"examples": len(self.asked.examples), "skipped": self.encoder.skipped.plain()}
        return super().finish(counts | dict(outcome), examples | dict(tables))


@contextmanager
def run_of(
    atlas: Path,
    kind: str,
    asked: PreparedJob,
    live: LiveModel,
    execution: Execution,
    *,
    identity: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
    resumes: bool = False,
) -> Iterator[ModelSession]:
    """A run of a model, named by its resolved job; the block computes it, unless it is `done`.

    identity: what decides the model's numbers. more: what the job says beside model and examples. resumes: whether
    portions of it are kept, so that an interrupt says how many.

    Raises:
        StoreUnavailable: another process runs the same job.
    """
    plain = resolved(asked.job, asked.dataset, asked.examples, identity)
    extra = dict(more or {})
    if "plugins" in plain and "plugins" in extra:
        extra["plugins"] = plain["plugins"] | extra["plugins"]
    record = RunRecord(atlas, kind, plain | extra, live, asked.dataset, execution)
    if record.begun():
        yield ModelSession(record, True, asked, live, execution)
        return
    with ExitStack() as stack:
        session = ModelSession(record, False, asked, live, execution)
        if resumes:
            stack.enter_context(note_stored_portions(session.portions, asked.numbered))
        stack.enter_context(record.running())
        yield session


@contextmanager
def derived_run(atlas: Path, kind: str, plain: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[Session]:
    """A run made from stored runs of one model; the block computes it, unless it is `done`."""
    record = DerivedRun(atlas, kind, plain, model)
    if record.begun():
        yield Session(record, True)
        return
    with record.running():
        yield Session(record, False)
