"""The record of a run: its row in the ledger while it runs, its folder and its rows once it is done."""

from __future__ import annotations

import fcntl
import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch
from sqlalchemy import Connection

from atlas import registry
from atlas.errors import AtlasError, IntegrityError, StoreUnavailable
from atlas.live import families
from atlas.live.model import LiveModel
from atlas.query.decoded import DECODINGS, has_z
from atlas.store import engine, insert, ledger
from atlas.store.interrupts import interruptible
from atlas.store.run_loader import load_run
from atlas.store.run_manifest import NAME as MANIFEST
from atlas.store.run_manifest import folder_of, read_manifest
from atlas.store.run_writer import write_run
from atlas.store.schema import responses
from ingest.data.examples import Dataset
from ingest.job import Execution
from ingest.run import memory
from ingest.run.encode_examples import Response
from ingest.run.phases import WRITING, Phases
from ingest.run.resolve import run_id

PATIENCE = 60.0
"""Seconds that a run waits for other users of the database: a query takes moments, the run took hours."""

VERSIONED = ("neuron-atlas", "torch", "transformers", "tokenizers", "numpy", "duckdb", "sqlalchemy")


class RunRecord:
    """One run of a model on a dataset, named by its resolved job.

    record = RunRecord(atlas, "ingest", plain, live, dataset, execution)
    if not record.already_done():
        with record.running():
            ...
            record.finish(outcome, tables)

    responses: the model's stored answers, by (example id, generation). decoded: whether another run has stored the
    model's decoded tokens, by z too. Both are set by `already_done`.
    """

    def __init__(
        self,
        atlas: Path,
        kind: str,
        plain: Mapping[str, Any],
        live: LiveModel,
        dataset: Dataset,
        execution: Execution,
    ):
        self.dataset: dict[str, Any] | None = dataset_row(dataset)
        self._concepts = concept_rows(dataset)
        if family := family_plugin(live):
            plain = {**plain, "plugins": {**plain.get("plugins", {}), **family}}
        self._set_up(atlas, kind, plain, model_row(live), environment(live, execution))

    def _set_up(
        self, atlas: Path, kind: str, plain: Mapping[str, Any], model: Mapping[str, Any], environment: dict[str, Any]
    ) -> None:
        self.atlas, self.kind, self.plain = atlas, kind, plain
        self.run_id = run_id(plain)
        self.folder = folder_of(atlas, self.run_id)
        self.model, self._environment = model, environment
        self._clock = time.monotonic()
        self._started_at = ledger.now()
        self.responses: dict[tuple[str, str], Response] = {}
        self.decoded = False
        self.phases = Phases()  # of a run that counts them; `finish` adds what writing takes

    def already_done(self) -> bool:
        """Whether the run is done already; if not, note in the ledger that it has started.

        A run counts as done where the database says so and its folder is intact: a damaged one is done again.
        """
        intact = self._is_whole()
        with engine.connect_writer(self.atlas, wait=PATIENCE) as connection:
            if intact and ledger.status(connection, self.run_id) == ledger.DONE:
                self.forget_portions()  # the run may have been killed before doing so
                return True
            model = insert.model_id(connection, self.model)
            self._started_at = ledger.begin_run(
                connection,
                self.run_id,
                kind=self.kind,
                job=self.plain,
                environment=self._environment,
                model_id=model,
                dataset_id=None if self.dataset is None else insert.dataset_id(connection, self.dataset),
            )
            self.decoded = self._decoded_elsewhere()
            if ledger.status(connection, self.run_id) != ledger.DONE:  # otherwise they may be this damaged run's own
                self.responses = _responses(connection, model)
        return False

    def _is_whole(self) -> bool:
        try:
            read_manifest(self.folder)
        except IntegrityError:
            return False
        return True

    def _decoded_elsewhere(self) -> bool:
        """Whether the folder of another run has the model's tokens by z; rows in the database alone do not count."""
        for file in self.atlas.glob(f"runs/*/{DECODINGS}"):
            if file.parent != self.folder and (file.parent / MANIFEST).is_file() and has_z(file):
                model = read_manifest(file.parent, verify=False)["model"] or {}
                if all(model.get(key) == self.model[key] for key in ("name", "revision", "fingerprint")):
                    return True
        return False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Lock the run's folder during the block, and note in the ledger if it fails or is interrupted.

        Raises:
            StoreUnavailable: another process runs the same job.
        """
        with folder_lock(self.folder), _ledgered(self.atlas, self.run_id), interruptible():
            yield

    def finish(self, outcome: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
        """Write the run's folder, its manifest last, and load it in one transaction; returns the full outcome."""
        full_outcome, started = dict(outcome), time.perf_counter()

        def complete() -> None:
            if self.phases:
                self.phases[WRITING] += time.perf_counter() - started  # type: ignore[assignment]
                full_outcome["phases"] = self.phases.rounded()
            seconds = round(time.monotonic() - self._clock, 3)
            full_outcome.update({"seconds": seconds, "peak_memory_bytes": memory.peak()})

        run = {
            "run_id": self.run_id,
            "kind": self.kind,
            "job": self.plain,
            "environment": self._environment,
            "outcome": full_outcome,
            "started_at": self._started_at,
            "finished_at": ledger.now(),
        }
        head = {"run": run, "model": self.model, "dataset": self.dataset, "concepts": self._concepts}
        write_run(self.folder, head, tables, complete)
        with engine.connect_writer(self.atlas, wait=PATIENCE) as connection:
            load_run(connection, self.folder)
        self.forget_portions()
        return full_outcome

    def forget_portions(self) -> None:
        """Remove the stored portions that an interrupted run would resume from."""
        shutil.rmtree(self.folder / "shards", ignore_errors=True)


class DerivedRun(RunRecord):
    """A run made from stored runs of one model, without a live model, a dataset or concepts of its own.

    model: the stored row of `models` without the id.
    """

    def __init__(self, atlas: Path, kind: str, plain: Mapping[str, Any], model: Mapping[str, Any]):
        self.dataset, self._concepts = None, []
        self._set_up(atlas, kind, plain, model, machine())


def _responses(connection: Connection, model: int) -> dict[tuple[str, str], Response]:
    query = sa.select(responses).where(responses.c.model_id == model)
    return {
        (r.example_id, r.generation): Response(r.example_id, r.generation, r.text, tuple(r.token_ids))
        for r in connection.execute(query)
    }


def model_row(live: LiveModel) -> dict[str, Any]:
    """The row of `models` for a live model, without the id."""
    return {
        "name": live.name,
        "revision": live.revision,
        "fingerprint": live.fingerprint,
        "model_type": str(live.model.config.model_type),
        "layers": len(live.layout.layers),
        "width": live.layout.width,
        "d_model": live.layout.d_model,
        "vocabulary": live.layout.vocabulary,
        "created_at": ledger.now(),
    }


def family_plugin(live: LiveModel) -> dict[str, Any]:
    """The distribution of the model's family, where that is a plug-in (`registry.origins`)."""
    return registry.origins({families: [str(live.model.config.model_type)]})


def dataset_row(dataset: Dataset) -> dict[str, Any]:
    """The row of `datasets`, without the id."""
    return {
        "name": dataset.name,
        "path": dataset.path,
        "revision": dataset.revision,
        "licence": dataset.licence,
        "created_at": ledger.now(),
    }


def concept_rows(dataset: Dataset) -> list[dict[str, Any]]:
    """The rows of `concepts`, by name, without ids."""
    keys = ("name", "supercategory", "category_id")
    return [
        {key: getattr(c, key) for key in keys} | {"forms": list(c.forms)} for _, c in sorted(dataset.concepts.items())
    ]


def machine() -> dict[str, Any]:
    """The versions of the libraries and the machine's platform."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "python": platform.python_version(),
        "platform": platform.machine(),
    }


def environment(live: LiveModel, execution: Execution) -> dict[str, Any]:
    """What may change a number besides the job, by rounding only."""
    return {
        **machine(),
        "device": str(live.device),
        "dtype": live.dtype,
        "attention": str(getattr(live.model.config, "_attn_implementation", None)),
        "threads": torch.get_num_threads(),
        "batch_size": execution.batch_size,
    }


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock the run's folder, so that no second process runs the same job.

    Raises:
        StoreUnavailable: another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreUnavailable(
                f"another process is running the same job (run {folder.name[:8]}); wait for it"
            ) from None
        yield


@contextmanager
def _ledgered(atlas: Path, identity: str) -> Iterator[None]:
    """Note in the ledger if the block fails, or is interrupted.

    The note itself may fail (a full disk, another process in the database): the first error counts.
    """
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        reason = "interrupted" if stopped else str(error) or type(error).__name__
        try:
            with engine.connect_writer(atlas, wait=PATIENCE) as connection:
                ledger.fail_run(connection, identity, {"error": reason}, interrupted=stopped)
        except AtlasError as second:
            print(f"the ledger could not be written: {second}", file=sys.stderr)  # noqa: T201
        raise
