"""Decoded tokens: the projections by which a neuron is read as tokens, and which of them tables and searches use.

    z       the projection on each token in standard deviations over all neurons (`atlas.live.logit_lens`)
    plain   the product of unembedding and write vector: the logit that the neuron adds at value 1
    norm    the plain one through the final norm's gain; only atlases of before schema 0007 have it

Everything that shows or searches tokens uses z where the model has it, else plain: `SHOWN` is that choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

Z, PLAIN, NORM = "z", "plain", "norm"
TOP, BOTTOM = "top", "bottom"
"""The sides: the tokens that a neuron raises most, and those that it lowers most."""

_OF_Z = f"SELECT model_id FROM decodings WHERE projection = '{Z}'"
SHOWN = f"""(side = '{TOP}' AND projection = CASE WHEN model_id IN ({_OF_Z}) THEN '{Z}' ELSE '{PLAIN}' END)"""
"""SQL: whether a row of `decodings` has the tokens that are shown and searched."""

RAISED = f"(SELECT model_id, component, layer, neuron, tokens FROM decodings WHERE {SHOWN})"
"""SQL: the tokens, best first, that every neuron raises most."""

NOT_Z = f"tokens={PLAIN} (no z is stored: `atlas ingest` stores it with its next run of the model)"
"""What an answer says of tokens of an atlas that was made before z."""


DECODINGS = "decodings.parquet"
"""The file of a run's folder that has its model's tokens."""


def has_z(file: Path) -> bool:
    """Whether a file of decoded tokens has those by z; files of before schema 0007 have not."""
    import pyarrow.parquet as pq

    if "projection" not in pq.read_schema(file).names:
        return False
    return Z in pq.read_table(file, columns=["projection"])["projection"].unique().to_pylist()


def tokens_of(alias: str, model: str | None = None) -> str:
    """The join after which `d.tokens` are the tokens that the neurons of a table raise most.

    alias: of the table, which has component, layer and neuron. model: SQL for the model's id, by default the table's.
    """
    return f"""LEFT JOIN {RAISED} d ON d.model_id = {model or f"{alias}.model_id"}
    AND d.component = {alias}.component AND d.layer = {alias}.layer AND d.neuron = {alias}.neuron"""


def token_notes(connection: Connection, models: Sequence[int]) -> list[str]:
    """What an answer that shows tokens of these models says of them: `NOT_Z`, where one of them has others only."""
    query = f"""
SELECT count(*) FROM (
    SELECT model_id FROM decodings WHERE model_id IN (SELECT unnest($models::INTEGER[]))
    GROUP BY model_id HAVING NOT bool_or(projection = '{Z}'))"""
    return [NOT_Z] if connection.execute(query, {"models": list(models)}).fetchall()[0][0] else []
