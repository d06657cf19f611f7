"""The database's tables, defined once, in SQLAlchemy Core.

`scores` holds nearly every row, so it has no key and no index: it is stored map by map, each in the order of its
neurons, and DuckDB's zone maps find a map, and a neuron in every map. Foreign keys are left out everywhere (DuckDB
cannot delete a parent and its child in one transaction); `atlas db check` proves that no row is an orphan.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, Float, Integer, MetaData, SmallInteger, String, Table

metadata = MetaData()


def _id(name: str) -> Column[int]:
    """A key, on small tables only; the loader assigns ids in order."""
    return Column(name, Integer, primary_key=True, autoincrement=False)


def _json(name: str) -> Column[str]:
    """An object as JSON text."""
    return Column(name, String, nullable=False, comment="JSON")


def _at(name: str) -> Column[str]:
    """A time in UTC as ISO 8601 text, which sorts chronologically."""
    return Column(name, String, nullable=False, comment="UTC, ISO 8601")


def _neuron() -> list[Column[Any]]:
    """The address of a neuron."""
    return [
        Column("component", String, nullable=False),
        Column("layer", SmallInteger, nullable=False),
        Column("neuron", Integer, nullable=False),
    ]


models = Table(
    "models",
    metadata,
    _id("model_id"),
    Column("name", String, nullable=False),  # HF repo id, embedded name, or folder name
    Column("revision", String),  # 40 hex for a hub model
    Column("fingerprint", String, nullable=False),  # sha256 over the weights: decides what may be edited
    Column("model_type", String, nullable=False),
    Column("layers", Integer, nullable=False),
    Column("width", Integer, nullable=False),  # neurons a layer (d_ff)
    Column("d_model", Integer, nullable=False),
    Column("vocabulary", Integer, nullable=False),
    _at("created_at"),
)

datasets = Table(
    "datasets",
    metadata,
    _id("dataset_id"),
    Column("name", String, nullable=False),
    Column("path", String),
    Column("revision", String, nullable=False),
    Column("licence", String, nullable=False),
    _at("created_at"),
)

concepts = Table(
    "concepts",
    metadata,
    _id("concept_id"),
    Column("dataset_id", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("supercategory", String),
    Column("category_id", Integer),
    Column("forms", sa.ARRAY(String), nullable=False),
)

examples = Table(
    "examples",
    metadata,
    Column("example_id", String, nullable=False),  # content hash, 32 hex
    Column("dataset_id", Integer, nullable=False),
    Column("source", String, nullable=False),
    Column("task", String, nullable=False),
    Column("split", String, nullable=False),
    Column("prompt", String, nullable=False),
    Column("answer", String),
    Column("media", sa.ARRAY(String), nullable=False),
    Column("concepts", sa.ARRAY(String), nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),  # sha256 of the resolved job
    Column("kind", String, nullable=False),  # ingest | evaluate | labels | geometry | embed | extract
    Column("status", String, nullable=False),  # running | done | failed | interrupted
    Column("model_id", Integer),
    Column("dataset_id", Integer),
    _json("job"),
    _json("environment"),  # versions, device, dtype, attention, threads
    _json("outcome"),  # counts, seconds, skipped examples, peak memory; {} while running
    _at("started_at"),
    Column("finished_at", String),
)

maps = Table(
    "maps",
    metadata,
    _id("map_id"),
    Column("run_id", String, nullable=False),
    Column("model_id", Integer, nullable=False),
    Column("concept_id", Integer),  # null: every concept of the run
    Column("method", String, nullable=False),
    Column("source", String, nullable=False),
    Column("target", String, nullable=False),
    Column("component", String, nullable=False),
    Column("reduce", String, nullable=False),  # mean | contrast
    Column("tap", String, nullable=False),  # product | gate
    _json("parameters"),
    Column("examples", Integer, nullable=False),  # how many the map averages over
    Column("neurons", Integer, nullable=False),  # how many neurons it scores
    Column("mean", Float, nullable=False),
    Column("std", Float, nullable=False),
    Column("kept", Integer, nullable=False),  # how many of them have a row of scores: the best so many
)

scores = Table(
    "scores",
    metadata,
    Column("map_id", Integer, nullable=False),
    Column("layer", SmallInteger, nullable=False),
    Column("neuron", Integer, nullable=False),
    Column("score", Float, nullable=False),
    Column("rank", Integer, nullable=False),  # 1 is best; ties in a drawn order of the map's own
)

sketches = Table(
    "sketches",  # the scores of a map that does not keep them all, at ranks evenly spaced from best to last
    metadata,
    Column("map_id", Integer, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("score", Float, nullable=False),
)

exemplars = Table(
    "exemplars",
    metadata,
    Column("run_id", String, nullable=False),
    *_neuron(),
    Column("source", String, nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("example_id", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("role", String, nullable=False),
    Column("token", String, nullable=False),
    Column("value", Float, nullable=False),
)

decodings = Table(
    "decodings",
    metadata,
    Column("model_id", Integer, nullable=False),
    *_neuron(),
    Column("projection", String, nullable=False),  # z | plain | norm: see atlas.query.decoded
    Column("side", String, nullable=False),  # top | bottom
    Column("tokens", sa.ARRAY(String), nullable=False),
    Column("token_ids", sa.ARRAY(Integer), nullable=False),
    Column("values", sa.ARRAY(Float), nullable=False),  # in the order of the tokens
)

labels = Table(
    "labels",
    metadata,
    Column("run_id", String, nullable=False),
    *_neuron(),
    Column("label", String, nullable=False),  # text | image | multimodal | ...
    Column("rule", String, nullable=False),
    Column("score", Float, nullable=False),
)

responses = Table(
    "responses",
    metadata,
    Column("model_id", Integer, nullable=False),
    Column("example_id", String, nullable=False),
    Column("generation", String, nullable=False),  # hash of prompt, media and decoding options
    Column("text", String, nullable=False),
    Column("token_ids", sa.ARRAY(Integer), nullable=False),
)

edits = Table(
    "edits",
    metadata,
    _id("edit_id"),
    Column("name", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("model_id", Integer, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("tap", String, nullable=False),
    Column("concept", String),
    _json("provenance"),  # the query, the runs and the selection that made it
    Column("changes", Integer, nullable=False),
    Column("sha256", String, nullable=False),  # of edits/<name>@<version>.json
    _at("created_at"),
    Column("solver", String),  # what computed it, where something did
    Column("note", String),  # the author's own words
)

changes = Table(
    "changes",
    metadata,
    Column("edit_id", Integer, nullable=False),
    *_neuron(),
    Column("gain", Float, nullable=False),
    Column("bias", Float, nullable=False),
    Column("where", String, nullable=False),  # all, or roles, positions and phase: see atlas.edits.positions
    Column("write", Integer),  # row of the edit's delta matrix
    Column("noise", Float),  # standard deviation of Gaussian noise
)

effects = Table(
    "effects",
    metadata,
    Column("run_id", String, nullable=False),
    Column("edit", String, nullable=False),  # name@version, or a name for what was ablated
    Column("concept", String),
    Column("source", String, nullable=False),
    Column("task", String, nullable=False),
    Column("subset", String, nullable=False),  # concept | others | about:CONCEPT, one of the others | model
    Column("condition", String, nullable=False),  # before | edit | random
    Column("metric", String, nullable=False),
    Column("value", Float, nullable=False),
    Column("low", Float),  # 95 % interval; none of too few clusters
    Column("high", Float),
    Column("examples", Integer, nullable=False),
    Column("seeds", Integer, nullable=False),
    Column("clusters", Integer),  # pictures, facts, ...: what the interval takes for independent
    Column("effective", Float),  # how many independent examples would tell as much
    # Whose best neurons were ablated, how many (40, or 0.5%), from which map; nothing of a stored edit.
    *(Column(name, String) for name in ("method", "dose", "reduce", "target")),
)

measures = Table(
    "measures",
    metadata,
    Column("run_id", String, nullable=False),
    Column("name", String, nullable=False),  # what was measured: centroid_distance, linear_cka, sensitivity, ...
    Column("method", String),  # of a method's maps, where it is about one
    Column("concept", String),
    Column("source", String, nullable=False),
    Column("layer", SmallInteger),
    Column("first", String),  # what is compared, for example two roles; or a parameter, for example k
    Column("second", String),
    Column("condition", String, nullable=False),  # before | edit | random
    Column("value", Float, nullable=False),
    Column("low", Float),  # 95 % interval
    Column("high", Float),
    Column("examples", Integer, nullable=False),
)

points = Table(
    "points",
    metadata,
    Column("run_id", String, nullable=False),
    Column("projection", String, nullable=False),  # pca | tsne | umap
    Column("layer", SmallInteger, nullable=False),
    Column("example_id", String, nullable=False),
    Column("position", Integer, nullable=False),
    Column("role", String, nullable=False),
    Column("x", Float, nullable=False),
    Column("y", Float, nullable=False),
    Column("condition", String),  # before | edit; never null
)

vectors = Table(
    "vectors",  # of one run: one space of one model
    metadata,
    Column("run_id", String, nullable=False),
    *_neuron(),
    Column("vector", sa.ARRAY(Float), nullable=False),  # of length 1, or all zeros
)

indexes = Table(
    "indexes",  # which FAISS file of vectors/ may be used: a cache, made again by `atlas index build`
    metadata,
    Column("run_id", String, nullable=False),  # whose vectors it has
    Column("kind", String, nullable=False),  # flat | fp16 | ivf
    Column("rows", Integer, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("content", String, nullable=False),  # sum over the vectors it was built from
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),  # of the file
    _at("built_at"),
)
