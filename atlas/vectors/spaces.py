"""The spaces in which neurons have vectors, each of one model and made by one run of kind `embed`.

    decoded     the sentence embedding, by a stated encoder, of a neuron's decoded tokens and best concepts
    direction   its write vector: the column of the down projection
    profile     its scores over concepts, standardised map by map

A run has one vector for every neuron of the language model, of length 1, or of zeros where there is nothing to embed;
its job says what it was made from. The newest run of a space counts.
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
"""The kind of a run that makes vectors."""

PREFIX = 4
"""The shortest beginning of a fingerprint that is taken for one."""


@dataclass(frozen=True, slots=True)
class Space:
    """One run's vectors. job: the resolved job; rows, dimension: what the run says it made."""

    run_id: str
    space: str
    model: Mapping[str, Any]
    job: Mapping[str, Any]
    rows: int
    dimension: int

    @property
    def encoder(self) -> str | None:
        """The name of the encoder, where a text was encoded."""
        return (self.job.get("encoder") or {}).get("name")

    @property
    def identity(self) -> str | None:
        """What decides the encoder's numbers, 64 hex digits."""
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
    """A stored model by its name or the beginning of its fingerprint, or else that of the newest run; and what was
    taken where it was left open.

    Raises:
        UsageError: there is none, or a name that several weights have.
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
    begun = [r for r in rows if len(model) >= PREFIX and str(r["fingerprint"]).startswith(model)]
    if not named and len({r["fingerprint"] for r in begun}) > 1:
        raise UsageError(f"several fingerprints begin with '{model}'; give more of it (`atlas models` lists them)")
    if not (named or begun):
        raise unknown("model", model, {str(r["name"]) for r in rows}, "atlas models")
    return (named or begun)[0], []


def find_spaces(connection: Connection, space: str | None = None, model: str | None = None) -> list[Space]:
    """The finished runs that made vectors, newest first; of one space, or of one model's weights (fingerprint)."""
    query = f"""
SELECT r.run_id, r.job, r.outcome, mo.* FROM runs r JOIN models mo USING (model_id)
WHERE r.kind = '{KIND}' AND r.status = 'done' AND ($model IS NULL OR mo.fingerprint = $model)
ORDER BY r.finished_at DESC, r.run_id"""
    found = []
    for row in connection.sql(query, params={"model": model}).to_arrow_table().to_pylist():
        run_id, job, outcome = row.pop("run_id"), json.loads(row.pop("job")), json.loads(row.pop("outcome"))
        if space in (None, job["space"]):
            found.append(Space(run_id, job["space"], row, job, int(outcome["rows"]), int(outcome["dimension"])))
    return found


def choose_space(
    connection: Connection, space: str, model: str | None = None, *, identity: str | None = None, run: str | None = None
) -> tuple[Space, list[str]]:
    """The newest vectors of a space and a model, and what was taken. identity: only those of this very encoder. run:
    the beginning of a run's id.

    Raises:
        UsageError: there are none; the message says what to type.
    """
    require_space(space)
    fingerprint = None if model is None else str(pick_model(connection, model)[0]["fingerprint"])
    there = find_spaces(connection, space, fingerprint)
    found = [s for s in there if identity in (None, s.identity) and s.run_id.startswith(run or "")]
    if not found:
        of = f" of {model}" if model else ""
        why = ""
        if there:
            why = " by this encoder" if identity else f" by a run that begins with '{run}'"
        raise UsageError(f"the space '{space}'{of} was never built{why}; `atlas index build --space {space}` builds it")
    first = found[0]
    others = sorted({str(s.model["name"]) for s in found} - {str(first.model["name"])})
    assumed = [f"model={first.model['name']} (also stored: {', '.join(others)})"] if others else []
    same = [s for s in found if s.model["fingerprint"] == first.model["fingerprint"]]
    if len(same) > 1:
        assumed.append(f"run={first.run_id[:8]} (the newest of {len(same)}; `atlas index status` lists them)")
    return first, assumed
