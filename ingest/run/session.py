"""A run in progress: how every command that stores a run begins and ends it."""

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
from ingest.run.phases import Phases
from ingest.run.record import DerivedRun, RunRecord
from ingest.run.regions import require_regions
from ingest.run.resolve import resolved


@dataclass(frozen=True)
class PreparedJob:
    """A complete job, its dataset and its examples, in a fixed order."""

    job: Job
    dataset: Dataset
    examples: Sequence[Example]

    @property
    def numbered(self) -> list[tuple[int, Example]]:
        """(number, example) pairs."""
        return list(enumerate(self.examples))


def prepare_job(job: Job, execution: Execution) -> PreparedJob:
    """The complete job with its dataset and examples; the model's weights are not loaded.

    Raises:
        UsageError: an unknown dataset, concept, source or task, no example, none that has its media, or none whose
            picture shows where a concept is, where a method compares with that.
    """
    dataset = open_dataset(job)
    job = prepare.completed(job, dataset, execution)
    examples = prepare.collect(job, dataset)
    prepare.tell_missing_media(dataset, examples)
    require_regions(job, dataset, examples)
    return PreparedJob(job, dataset, examples)


class Session:
    """A run that has begun. done: the same run is stored already, and nothing needs computing."""

    def __init__(self, record: RunRecord, done: bool):
        self.record, self.done = record, done

    @property
    def run_id(self) -> str:
        """The run's id, a hash of its job."""
        return self.record.run_id

    @property
    def phases(self) -> Phases:
        """Seconds by phase, of a run that counts them."""
        return self.record.phases

    def finish(self, outcome: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
        """Store the run's tables and outcome; returns the full outcome, with seconds and memory."""
        return self.record.finish(outcome, tables)


class ModelSession(Session):
    """A run of a live model on a dataset's examples."""

    def __init__(self, record: RunRecord, done: bool, prepared_job: PreparedJob, live: LiveModel, execution: Execution):
        super().__init__(record, done)
        self.prepared, self.live, self.execution = prepared_job, live, execution

    @property
    def portions(self) -> Path:
        """The folder of the stored portions that an interrupted run resumes from."""
        return self.record.folder / "shards"

    @cached_property
    def encoder(self) -> ExampleEncoder:
        """The encoder of the run's examples; stored answers are reused."""
        return ExampleEncoder(
            self.live,
            self.prepared.dataset,
            self.prepared.job,
            bad_media=self.execution.bad_media,
            responses=self.record.responses,
            examples=self.prepared.examples,
        )

    def finish(self, outcome: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
        """The same, with the examples, the model's answers to them, and what was left out."""
        examples = {
            "examples": arrow_tables.examples_table(self.prepared.examples),
            "responses": arrow_tables.responses_table(self.encoder.made),
        }
        counts = {"examples": len(self.prepared.examples), "skipped": self.encoder.skipped.plain()}
        return super().finish(counts | dict(outcome), examples | dict(tables))


@contextmanager
def run_of(
    atlas: Path,
    kind: str,
    prepared: PreparedJob,
    live: LiveModel,
    execution: Execution,
    *,
    identity: Mapping[str, Any],
    extra_fields: Mapping[str, Any] | None = None,
    resumes: bool = False,
) -> Iterator[ModelSession]:
    """A run of a model, named by its resolved job; the block computes it, unless it is `done`.

    identity: what determines the model's numbers. extra_fields: of the job, besides model and examples. resumes:
    whether its portions are stored, so that an interrupt says how many.

    Raises:
        StoreUnavailable: another process runs the same job.
    """
    plain = resolved(prepared.job, prepared.dataset, prepared.examples, identity)
    extra = dict(extra_fields or {})
    if "plugins" in plain and "plugins" in extra:
        extra["plugins"] = plain["plugins"] | extra["plugins"]
    record = RunRecord(atlas, kind, plain | extra, live, prepared.dataset, execution)
    if record.already_done():
        yield ModelSession(record, True, prepared, live, execution)
        return
    with ExitStack() as stack:
        session = ModelSession(record, False, prepared, live, execution)
        if resumes:
            stack.enter_context(note_stored_portions(session.portions, prepared.numbered))
        stack.enter_context(record.running())
        yield session


@contextmanager
def derived_run(atlas: Path, kind: str, plain: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[Session]:
    """A run made from stored runs of one model; the block computes it, unless it is `done`."""
    record = DerivedRun(atlas, kind, plain, model)
    if record.already_done():
        yield Session(record, True)
        return
    with record.running():
        yield Session(record, False)
