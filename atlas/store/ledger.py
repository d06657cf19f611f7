"""The ledger: which runs were started, and how they ended.

A run is `running`, then `done`, `failed`, or `interrupted` by the user. It becomes `done` only in the transaction that
stores its rows (`atlas.store.run_loader.load_run`), so that a query never sees half a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import Connection

from atlas.errors import UsageError
from atlas.store.arrow_types import arrow_schema
from atlas.store.insert import insert
from atlas.store.schema import runs

RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"


def now() -> str:
    """The current time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def status(connection: Connection, run_id: str) -> str | None:
    """`running`, `done`, `failed`, `interrupted`, or None for a run that was never started."""
    stored = connection.execute(sa.select(runs.c.status).where(runs.c.run_id == run_id)).scalar()
    return None if stored is None else str(stored)


def begin_run(
    connection: Connection,
    run_id: str,
    *,
    kind: str,
    job: Mapping[str, Any],
    environment: Mapping[str, Any],
    model_id: int | None,
    dataset_id: int | None,
) -> str:
    """Record that a run has started, possibly again after it was interrupted or failed.

    A run that is done stays done, and its rows stay, until `load_run` replaces both.

    Returns:
        When it started, for the manifest.
    """
    moment = now()
    if status(connection, run_id) != DONE:
        put(
            connection,
            {
                "run_id": run_id,
                "kind": kind,
                "status": RUNNING,
                "model_id": model_id,
                "dataset_id": dataset_id,
                "job": job,
                "environment": environment,
                "outcome": {},
                "started_at": moment,
                "finished_at": None,
            },
        )
    return moment


def fail_run(connection: Connection, run_id: str, outcome: Mapping[str, Any], *, interrupted: bool = False) -> None:
    """Record that a run failed or was interrupted; `outcome` has the reason. A run that is done stays done.

    Raises:
        UsageError: the run was never started.
    """
    if status(connection, run_id) != DONE:
        _end(connection, run_id, INTERRUPTED if interrupted else FAILED, outcome)


def _end(connection: Connection, run_id: str, state: str, outcome: Mapping[str, Any]) -> None:
    if status(connection, run_id) is None:
        raise UsageError(f"no run called '{run_id}' was started (`atlas runs` lists all)")
    values = {"status": state, "outcome": json_text(outcome), "finished_at": now()}
    connection.execute(sa.update(runs).where(runs.c.run_id == run_id).values(values))


def put(connection: Connection, row: Mapping[str, Any]) -> None:
    """Add a row to the ledger, or replace the one with that run id. Objects become JSON text."""
    flat = {name: json_text(value) if isinstance(value, Mapping) else value for name, value in row.items()}
    if status(connection, flat["run_id"]) is None:
        insert(connection, runs, pa.Table.from_pylist([flat], schema=arrow_schema(runs)))
    else:
        connection.execute(sa.update(runs).where(runs.c.run_id == flat["run_id"]).values(flat))


def json_text(value: Mapping[str, Any]) -> str:
    """JSON on one line with sorted keys: equal objects give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
