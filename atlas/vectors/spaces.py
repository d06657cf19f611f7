"""The spaces in which neurons have vectors, each of one model and computed by one run of kind `embed`.

    decoded     the mean of the sentence embeddings, by a stated encoder, of its decoded tokens and best concepts (of
                runs without `wording.weight`: the embedding of all of them as one text)
    direction   its write vector: the column of the down projection
    profile     its scores over concepts, standardised map by map

A run has one vector for every neuron of the language model, of length 1, or of zeros where there is nothing to embed;
its job says what it was computed from. The newest run of a space is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError, unknown

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

DECODED, DIRECTION, PROFILE = "decoded", "direction", "profile"
SPACES = (DECODED, DIRECTION, PROFILE)

KIND = "embed"
"""The kind of a run that computes vectors."""

PREFIX = 4
"""The shortest prefix that is accepted for a fingerprint."""


@dataclass(frozen=True, slots=True)
class Space:
    """One run's vectors. job: the resolved job. rows, dimension: as recorded by the run."""

    run_id: str
    space: str
    model: Mapping[str, Any]
    job: Mapping[str, Any]
    rows: int
    dimension: int

    @property
    def encoder(self) -> str | None:
        """The name of the encoder; None for spaces without text."""
        return (self.job.get("encoder") or {}).get("name")

    @property
    def identity(self) -> str | None:
        """64 hex digits of what determines the encoder's numbers."""
        return (self.job.get("encoder") or {}).get("identity")


def require_space(space: str) -> str:
    """Refuse what is not a space.

    Raises:
        UsageError: with the nearest name.
    """
    if space not in SPACES:
        raise unknown("space", space, SPACES, "atlas index status")
    return space


def pick_model(connection: Connection, model: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """A stored model by its name or a prefix of its fingerprint, by default that of the newest run; and a note on the
    default.

    Raises:
        UsageError: there is none, or several weights have the name.
    """
    query = """
SELECT mo.*, max(r.finished_at) AS newest FROM models mo LEFT JOIN runs r ON r.model_id = mo.model_id
    AND r.status = 'done' GROUP BY ALL ORDER BY newest DESC NULLS LAST, mo.model_id DESC"""
    rows = connection.sql(query).to_arrow_table().drop_columns(["newest"]).to_pylist()
    if not rows:
        raise UsageError("this atlas has no model yet; `atlas ingest` brings one, `atlas demo` makes an example")
    if model is None:
        others = sorted({str(r["name"]) for r in rows} - {str(rows[0]["name"])})
        return rows[0], [f"model={rows[0]['name']} (also stored: {', '.join(others)})"] if others else []
    named = [r for r in rows if r["name"] == model]
    if len({r["fingerprint"] for r in named}) > 1:
        shown = ", ".join(sorted({str(r["fingerprint"])[:12] for r in named}))
        raise UsageError(f"several weights are called '{model}'; give the beginning of a fingerprint: {shown}")
    by_fingerprint = [r for r in rows if len(model) >= PREFIX and str(r["fingerprint"]).startswith(model)]
    if not named and len({r["fingerprint"] for r in by_fingerprint}) > 1:
        raise UsageError(f"several fingerprints begin with '{model}'; give more characters (`atlas models` lists them)")
    if not (named or by_fingerprint):
        raise unknown("model", model, {str(r["name"]) for r in rows}, "atlas models")
    return (named or by_fingerprint)[0], []


def find_spaces(connection: Connection, space: str | None = None, model: str | None = None) -> list[Space]:
    """The finished runs with vectors, newest first; of one space, or of one model's weights (fingerprint)."""
    query = f"""
SELECT r.run_id, r.job, r.outcome, mo.* FROM runs r JOIN models mo USING (model_id)
WHERE r.kind = '{KIND}' AND r.status = 'done' AND ($model IS NULL OR mo.fingerprint = $model)
ORDER BY r.finished_at DESC, r.run_id"""
    spaces = []
    for row in connection.sql(query, params={"model": model}).to_arrow_table().to_pylist():
        run_id, job, outcome = row.pop("run_id"), json.loads(row.pop("job")), json.loads(row.pop("outcome"))
        if space in (None, job["space"]):
            spaces.append(Space(run_id, job["space"], row, job, int(outcome["rows"]), int(outcome["dimension"])))
    return spaces


def choose_space(
    connection: Connection, space: str, model: str | None = None, *, identity: str | None = None, run: str | None = None
) -> tuple[Space, list[str]]:
    """The newest vectors of a space and a model, and notes on defaults. identity: only those of this encoder. run: a
    prefix of a run's id.

    Raises:
        UsageError: there are none; the message says what to type.
    """
    require_space(space)
    fingerprint = None if model is None else str(pick_model(connection, model)[0]["fingerprint"])
    stored = find_spaces(connection, space, fingerprint)
    matching = [s for s in stored if identity in (None, s.identity) and s.run_id.startswith(run or "")]
    if not matching:
        of = f" of {model}" if model else ""
        why = ""
        if stored:
            why = " by this encoder" if identity else f" by a run that begins with '{run}'"
        raise UsageError(f"the space '{space}'{of} was never built{why}; `atlas index build --space {space}` builds it")
    first = matching[0]
    others = sorted({str(s.model["name"]) for s in matching} - {str(first.model["name"])})
    defaults = [f"model={first.model['name']} (also stored: {', '.join(others)})"] if others else []
    same = [s for s in matching if s.model["fingerprint"] == first.model["fingerprint"]]
    if len(same) > 1:
        defaults.append(f"run={first.run_id[:8]} (the newest of {len(same)}; `atlas index status` lists them)")
    return first, defaults
