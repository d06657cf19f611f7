"""The format of a run folder: Parquet shards and a manifest, from which the database can be rebuilt.

    runs/<run_id>/
        maps.parquet  scores.parquet  exemplars.parquet  decodings.parquet  labels.parquet
        responses.parquet  examples.parquet  effects.parquet  measures.parquet  points.parquet
        sketches.parquet  vectors.parquet
                                                                   those that the run has; others are absent
        manifest.json                                              written last: without it there is no run

A shard has exactly the columns of its table (`arrow_schema`). Ids that the database assigns are local to the folder:

    map_id      0, 1, 2, ...: the row of maps.parquet
    concept_id  the position in the manifest's list of concepts, or null
    model_id    0: the manifest's model
    dataset_id  0: the manifest's dataset

`run_id` and `example_id` are hashes of content and are the same everywhere. Scores come map by map, each in the order
of layers and neurons (in folders of schemas before 0004 best first, and their maps have no column `kept`: `shard_rows`
reads both).
Responses and decodings belong to the model, and examples to the dataset: several runs may have the same, and the
database keeps them once. A run writes all of its examples; responses and decodings that the folder of another run has
may be left out.

manifest.json:

    format    1
    schema    the database revision the shards were written for
    run       the columns of `runs` but the status and the two ids; job, environment and outcome are objects
    model     the columns of `models` but the id, or null
    dataset   the columns of `datasets` but the id, or null
    concepts  the columns of `concepts` but the ids: every concept that a map or an example of the run names
    files     {"scores.parquet": {"rows": 20480, "bytes": 183002, "sha256": "..."}, ...}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import Table

from atlas.errors import IntegrityError
from atlas.store import arrow_types, schema
from atlas.store.atomic import sha256
from atlas.store.database import VERSION, literal

FORMAT = 1
NAME = "manifest.json"
SHARDS: Mapping[str, Table] = {
    table.name: table
    for table in (
        schema.examples,
        schema.maps,
        schema.scores,
        schema.exemplars,
        schema.decodings,
        schema.labels,
        schema.responses,
        schema.effects,
        schema.measures,
        schema.points,
        schema.sketches,
        schema.vectors,
    )
}
OBJECTS = ("job", "environment", "outcome")
"""The columns of `runs` that are JSON objects in the manifest and their text in the database."""


def columns(table: Table, *without: str) -> list[str]:
    """The names of a table's columns, except some."""
    return [column.name for column in table.columns if column.name not in without]


_RUN = columns(schema.runs, "status", "model_id", "dataset_id")
_MODEL = columns(schema.models, "model_id")
_DATASET = columns(schema.datasets, "dataset_id")
_CONCEPT = columns(schema.concepts, "concept_id", "dataset_id")


ADDED = {
    "maps": (("0004", "kept"),),
    "effects": (
        *(("0005", name) for name in ("clusters", "effective")),
        *(("0006", name) for name in ("method", "dose", "reduce", "target")),
    ),
    "points": (("0008", "condition"),),
}
"""Columns that were added to a table in a later revision, which older shards lack."""

_RENAMED = {
    "decodings": {"projection": pa.field("norm", pa.bool_()), "values": pa.field("logits", pa.list_(pa.float32()))}
}
"""Columns that stand for others of shards from before 0007, which had two projections."""

_LABELLED = (
    "edit = concat_ws(':', split_part(edit, ':', 1), split_part(edit, ':', 2), split_part(edit, ':', 3), concept)"
)
_FROM_LABEL = {
    "method": r"regexp_replace(split_part(edit, ':', 1), '\[[^\]]*\]$', '')",
    "dose": "split_part(edit, ':', 2)",
    "reduce": "split_part(edit, ':', 3)",
    "target": r"coalesce(nullif(regexp_extract(split_part(edit, ':', 1), '\[([^\]]*)\]$', 1), ''), 'text')",
}
"""Before 0006 these were only in the label of an ablation: `method:dose:reduce:concept`, or `method[target]:...`."""


def shard_schema(table: Table, revision: str) -> pa.Schema:
    """The columns that a shard of this table has, written for this database revision."""
    renamed = _RENAMED.get(table.name, {}) if revision < "0007" else {}
    added = {name for since, name in ADDED.get(table.name, ()) if revision < since}
    fields = arrow_types.arrow_schema(table)
    return pa.schema([renamed.get(field.name, field) for field in fields if field.name not in added])


def shard_rows(table: Table, file: Path | str, revision: str) -> str:
    """SQL for the rows of a shard, a file or a URL, as today's table has them, in its order."""
    rows = f"FROM read_parquet({literal(file if isinstance(file, str) else file.resolve())})"
    if revision < "0007" and table is schema.decodings:
        now = {"projection": "CASE WHEN norm THEN 'norm' ELSE 'plain' END", "values": "logits"}
        values = ", ".join(f'{now.get(name, name)} AS "{name}"' for name in columns(table))
        return f"SELECT {values} {rows}"
    if revision < "0004" and table is schema.maps:
        return f"SELECT *, neurons AS kept {rows}"
    if revision < "0006" and table is schema.effects:
        clusters = "NULL AS clusters, NULL AS effective, " if revision < "0005" else ""
        from_label = ", ".join(
            f"CASE WHEN {_LABELLED} THEN {value} END AS {name}" for name, value in _FROM_LABEL.items()
        )
        return f"SELECT *, {clusters}{from_label} {rows}"
    if revision < "0008" and table is schema.points:
        return f"SELECT *, 'before' AS condition {rows}"
    if revision < "0004" and table is schema.scores:
        return f"SELECT * {rows} ORDER BY map_id, layer, neuron"
    return f"SELECT * {rows}"


def folder_of(path: Path, run_id: str) -> Path:
    """The folder of a run in an atlas."""
    return path / "runs" / run_id


def require_head(head: Mapping[str, Any]) -> None:
    """Refuse a manifest whose `run`, `model`, `dataset` or `concepts` are not in the format above.

    Raises:
        IntegrityError: with the first difference.
    """
    for name in ("run", "model", "dataset", "concepts"):
        if name not in head:
            raise IntegrityError(f"the manifest has no '{name}'")
    run = dict(head["run"])
    if not run.get("finished_at"):
        raise IntegrityError("the manifest's run has no finished_at: only finished runs can be written")
    for name in OBJECTS:
        if not isinstance(run.get(name), Mapping):
            raise IntegrityError(f"the manifest's run has no object '{name}'")
        run[name] = json.dumps(run[name])
    if not re.fullmatch(r"[0-9a-f]{8,64}", str(run.get("run_id"))):
        raise IntegrityError(f"'{run.get('run_id')}' is not a run id: 8 to 64 hex digits")
    _require_rows(schema.runs, _RUN, [run])
    _require_rows(schema.models, _MODEL, [head["model"]] if head["model"] else [])
    _require_rows(schema.datasets, _DATASET, [head["dataset"]] if head["dataset"] else [])
    _require_rows(schema.concepts, _CONCEPT, head["concepts"])
    if head["concepts"] and not head["dataset"]:
        raise IntegrityError("the manifest has concepts but no dataset they belong to")
    if len({concept["name"] for concept in head["concepts"]}) != len(head["concepts"]):
        raise IntegrityError("two concepts of the manifest have the same name")
    for concept in head["concepts"]:
        if not concept["name"].strip() or concept["name"] == "*":  # empty, or the name for all concepts
            raise IntegrityError(f"the manifest has a concept called {concept['name']!r}, which is not allowed")


def _require_rows(table: Table, names: list[str], rows: list[Mapping[str, Any]]) -> None:
    columns = arrow_types.arrow_schema(table)
    for row in rows:
        if set(row) != set(names):
            raise IntegrityError(f"a row of {table.name} in the manifest has {sorted(row)}, not {sorted(names)}")
        for name in names:
            try:
                value = pa.array([row[name]], type=columns.field(name).type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                raise IntegrityError(f"{table.name}.{name} in the manifest is {row[name]!r}: {error}") from error
            if value.null_count and not columns.field(name).nullable:
                raise IntegrityError(f"{table.name}.{name} in the manifest is null")


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Read the manifest of a run folder.

    verify: also compare every shard's size and sha256 with it.

    Raises:
        IntegrityError: absent, unreadable, of another format, or a shard differs.
    """
    file = folder / NAME
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IntegrityError(f"{folder} has no {NAME}: the run was interrupted, start it again to resume") from error
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{file} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise IntegrityError(f"{file} is not a manifest of format {FORMAT}")
    if str(manifest.get("schema")) > VERSION:
        raise IntegrityError(f"{file} was written by a newer program; `pip install --upgrade neuron-atlas`")
    try:
        require_head(manifest)
        _require_files(manifest.get("files"))
    except (IntegrityError, TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
        raise IntegrityError(f"{file}: {error}") from error
    if manifest["run"]["run_id"] != folder.name:
        raise IntegrityError(f"{file} belongs to run {manifest['run']['run_id']}, not to {folder.name}")
    for name, entry in manifest["files"].items():
        _require_shard(folder / name, entry, verify=verify)
    return manifest


def _require_files(files: Any) -> None:
    if not isinstance(files, Mapping):
        raise IntegrityError("it has no object 'files'")
    for name, entry in files.items():
        if name not in {f"{table}.parquet" for table in SHARDS}:
            raise IntegrityError(f"it names '{name}', which is not a shard")
        numbers = isinstance(entry, Mapping) and all(type(entry.get(key)) is int for key in ("rows", "bytes"))
        if not numbers or not isinstance(entry.get("sha256"), str):
            raise IntegrityError(f"it does not say the rows, bytes and sha256 of {name}")


def _require_shard(file: Path, entry: Mapping[str, Any], *, verify: bool) -> None:
    if not file.is_file():
        raise IntegrityError(f"{file} is missing; run the job again")
    if verify and (file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]):
        raise IntegrityError(f"{file} does not match its manifest (sha256): it was changed or cut; run the job again")
