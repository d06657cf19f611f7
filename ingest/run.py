"""A job from beginning to end: plan, map, merge, write the run folder, load it in one transaction."""

from __future__ import annotations

import fcntl
import importlib.metadata
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch

from atlas import ledger, rows, store
from atlas.errors import AtlasError, StoreUnavailable, UsageError
from atlas.live.model import LiveModel
from atlas.load import load_run
from atlas.manifest import folder_of
from atlas.runs import write_run
from atlas.schema import decodings, responses
from ingest import tables, zoo
from ingest.examples import Dataset, Example
from ingest.feed import Feed, Response
from ingest.job import Execution, Job, complete, open_dataset, resolved, run_id, tasks_by_source
from ingest.shards import Progress, map_all

VERSIONED = ("neuron-atlas", "torch", "transformers", "tokenizers", "numpy", "duckdb", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job. fresh: False where the same job had been done before and nothing was run."""

    run_id: str
    fresh: bool
    outcome: Mapping[str, Any]


def load_model(job: Job, execution: Execution) -> LiveModel:
    """The job's model: an embedded one by name, else a folder or a HuggingFace id."""
    embedded = zoo.find(job.model)
    return LiveModel.load(
        embedded or job.model,
        revision=job.revision,
        device=execution.device,
        dtype=job.dtype,
        device_map=execution.device_map,
        label=job.model,
    )


def collect(job: Job, dataset: Dataset) -> list[Example]:
    """The job's examples, in a fixed order.

    Raises:
        UsageError: there are none; or a task that the dataset does not have.
    """
    found: list[Example] = []
    for source, tasks in tasks_by_source(job, dataset).items():
        found += dataset.examples(
            source=source,
            split=job.split,
            concepts=job.concepts,
            tasks=tasks,
            per_concept=job.per_concept,
            seed=job.seed,
        )
    if not found:
        raise UsageError(
            f"the dataset {job.dataset} has no {job.split} example of {', '.join(job.concepts[:5]) or 'any concept'} "
            f"with source {' or '.join(job.sources)}; choose other --concepts, --sources or --split "
            "(`atlas concepts --dataset ...` lists what there is)"
        )
    return list({e.id: e for e in found}.values())


def model_row(live: LiveModel) -> dict[str, Any]:
    return {
        "name": live.name,
        "revision": live.revision,
        "fingerprint": live.fingerprint,
        "model_type": str(live.model.config.model_type),
        "layers": len(live.layout.layers),
        "width": live.layout.width,
        "d_model": live.layout.d_model,
        "vocabulary": live.layout.vocabulary,
        "created_at": _now(),
    }


def dataset_row(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "path": dataset.path,
        "revision": dataset.revision,
        "licence": dataset.licence,
        "created_at": _now(),
    }


def concept_rows(dataset: Dataset) -> list[dict[str, Any]]:
    keys = ("name", "supercategory", "category_id")
    return [
        {key: getattr(c, key) for key in keys} | {"forms": list(c.forms)} for _, c in sorted(dataset.concepts.items())
    ]


def environment(live: LiveModel, execution: Execution) -> dict[str, Any]:
    """What a number may depend on besides the job, by a little rounding."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "python": platform.python_version(),
        "platform": platform.machine(),
        "device": str(live.device),
        "dtype": live.dtype,
        "attention": str(getattr(live.model.config, "_attn_implementation", None)),
        "threads": torch.get_num_threads(),
        "batch_size": execution.batch_size,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the run's folder: a second process with the same job is told so instead of writing beside the first.

    Raises:
        StoreUnavailable: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreUnavailable(
                f"another process is running this very job (run {folder.name[:8]}); wait for it"
            ) from None
        yield


def ingest(atlas: Path, job: Job, execution: Execution, progress: Progress = lambda done, total: None) -> Outcome:
    """Run a job into an atlas, or go on where it was interrupted; a finished job is not run again.

    Raises:
        AtlasError: of any kind; what had been computed by then is kept and the next call goes on from it.
    """
    started = time.monotonic()
    dataset = open_dataset(job)
    job = complete(job, dataset)
    examples = collect(job, dataset)
    live = load_model(job, execution)
    plain = resolved(job, dataset, live.fingerprint, live.dtype)
    identity = run_id(plain)
    where = environment(live, execution)
    with store.connect_writer(atlas) as connection:
        if ledger.status(connection, identity) == ledger.DONE and not execution.again:
            return Outcome(identity, False, {})
        moment = begin(connection, identity, "ingest", plain, where, live, dataset)
        known, decoded = _known(connection, live)
    folder = folder_of(atlas, identity)
    with only_one(folder), ledgered(atlas, identity):
        if execution.again:
            shutil.rmtree(folder / "shards", ignore_errors=True)
        feed = Feed(live, dataset, job, bad_media=execution.bad_media, responses=known)
        numbered = list(enumerate(examples))
        state = map_all(live, feed, job, execution, numbered, folder / "shards", progress)
        found = tables.collect_maps(state, job)
        if not found:
            shutil.rmtree(folder / "shards")  # nothing in them is worth going on from
            raise AtlasError(_nothing(feed, job))
        names = sorted(dataset.concepts)
        content: dict[str, Any] = {
            "examples": tables.examples_table(examples),
            "maps": tables.maps_table(identity, job, found, names),
            "scores": tables.score_batches(found),
            "exemplars": tables.exemplars_table(identity, live, state.exemplars, [e.id for e in examples]),
            "responses": tables.responses_table(feed.made),
        }
        if not decoded:
            content["decodings"] = tables.decodings_batches(live)
        outcome = {
            "examples": len(examples),
            "pairs": state.pairs,
            "maps": len(found),
            "skipped": feed.skipped.plain(),
            "seconds": round(time.monotonic() - started, 3),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        finish(atlas, identity, "ingest", plain, where, outcome, moment, live, dataset, content)
        shutil.rmtree(folder / "shards", ignore_errors=True)
    return Outcome(identity, True, outcome)


def begin(
    connection: sa.Connection,
    identity: str,
    kind: str,
    plain: Mapping[str, Any],
    where: Mapping[str, Any],
    live: LiveModel,
    dataset: Dataset,
) -> str:
    return ledger.begin_run(
        connection,
        identity,
        kind=kind,
        job=plain,
        environment=where,
        model_id=rows.model_id(connection, model_row(live)),
        dataset_id=rows.dataset_id(connection, dataset_row(dataset)),
    )


def _known(connection: sa.Connection, live: LiveModel) -> tuple[dict[tuple[str, str], Response], bool]:
    """The answers this model has given before, and whether its neurons are decoded already."""
    mine = rows.model_id(connection, model_row(live))
    query = sa.select(responses).where(responses.c.model_id == mine)
    known = {
        (r.example_id, r.generation): Response(r.example_id, r.generation, r.text, tuple(r.token_ids))
        for r in connection.execute(query)
    }
    count = sa.select(sa.func.count()).select_from(decodings).where(decodings.c.model_id == mine)
    return known, bool(connection.execute(count).scalar())


def finish(
    atlas: Path,
    identity: str,
    kind: str,
    plain: Mapping[str, Any],
    where: Mapping[str, Any],
    outcome: Mapping[str, Any],
    started_at: str,
    live: LiveModel,
    dataset: Dataset,
    content: Mapping[str, Any],
) -> None:
    """Write the run's folder, its manifest last, and load it in one transaction."""
    head = {
        "run": {
            "run_id": identity,
            "kind": kind,
            "job": plain,
            "environment": where,
            "outcome": outcome,
            "started_at": started_at,
            "finished_at": _now(),
        },
        "model": model_row(live),
        "dataset": dataset_row(dataset),
        "concepts": concept_rows(dataset),
    }
    folder = folder_of(atlas, identity)
    write_run(folder, head, content)
    with store.connect_writer(atlas) as connection:
        load_run(connection, folder)


@contextmanager
def ledgered(atlas: Path, identity: str) -> Iterator[None]:
    """Note in the ledger if the block fails; an interrupt says how to go on.

    The note itself may fail (a full disk, another process in the database): the first error counts.
    """
    try:
        yield
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
        try:
            with store.connect_writer(atlas) as connection:
                ledger.fail_run(connection, identity, {"error": reason})
        except AtlasError as second:
            print(f"the ledger could not be told: {second}", file=sys.stderr)  # noqa: T201
        raise


def _nothing(feed: Feed, job: Job) -> str:
    skipped = feed.skipped
    if skipped.media:
        pointer, reason = next(iter(skipped.media.items()))
        return f"no example could be used: {len(skipped.media)} media failed, the first: {pointer}: {reason}"
    lacking = ", ".join(f"{c} {n}x" for c, n in skipped.unmentioned.most_common(5))
    return (
        f"no answer mentions the words of {', '.join(job.concepts[:5])} (not in the answer: {lacking}); "
        "give other --concepts, or more examples with --per-concept"
    )
