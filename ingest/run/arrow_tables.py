"""A run's results as Arrow tables in the form of `atlas.store.schema`, with the run's local ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.live.finite import NotFinite
from atlas.live.model import LiveModel
from atlas.neurons import LANGUAGE
from atlas.store.arrow_types import arrow_schema
from atlas.store.schema import examples, exemplars, maps, responses, scores, sketches
from atlas.token_roles import ROLES
from ingest.attribution.estimators import NeuronMap
from ingest.attribution.exemplars import Exemplars
from ingest.data.examples import Example
from ingest.job import ALL, Job, kept_top
from ingest.run.encode_examples import Response
from ingest.run.map_step import State


def collect_maps(state: State, job: Job) -> list[tuple[str, NeuronMap]]:
    """Every method's maps of the job's reductions, in a fixed order; some may have no score at all.

    Raises:
        NotFinite: a score is infinite.
    """
    named_maps = [
        (f"{name}.{neuron_map.part}" if neuron_map.part else name, neuron_map)
        for name, method in {**state.methods, **state.answers}.items()
        for neuron_map in method.result()
        if neuron_map.reduce in job.reduce or neuron_map.concept is None
    ]
    for name, m in named_maps:
        if m.scores.isinf().any():
            raise NotFinite(
                f"the scores of {name} for {m.concept or 'all concepts'} ({m.source}, {m.reduce}) are beyond float32; "
                "leave out the method, or this [[reduce]]"
            )
    return named_maps


def with_scores(named_maps: Sequence[tuple[str, NeuronMap]]) -> list[tuple[str, NeuronMap]]:
    """The maps with a score: one without would hide an older run's map and answer nothing."""
    return [(name, neuron_map) for name, neuron_map in named_maps if not neuron_map.scores.isnan().all()]


def concepts_without_map(named_maps: Sequence[tuple[str, NeuronMap]]) -> dict[str, list[str]]:
    """method -> the concepts without a map, as no neuron passed: it has only parts, or maps without a score."""
    present = {(name, neuron_map.source, neuron_map.concept) for name, neuron_map in with_scores(named_maps)}
    lacking: dict[str, set[str]] = {}
    for name, neuron_map in named_maps:
        method, dot, _ = name.partition(".")
        is_empty = bool(dot) or bool(neuron_map.scores.isnan().all())
        if (
            is_empty
            and neuron_map.concept is not None
            and (method, neuron_map.source, neuron_map.concept) not in present
        ):
            lacking.setdefault(method, set()).add(neuron_map.concept)
    return {method: sorted(concepts) for method, concepts in sorted(lacking.items())}


def rank_columns(neuron_map: NeuronMap, seed: int = 0, keep: int | None = None) -> dict[str, np.ndarray]:
    """layer, neuron, score and rank of a map in the order of its neurons, without neurons that have no score.

    Equal scores come in a random order by `seed`: most scores of a map may be exactly 0, and an order that maps share
    would make their tops overlap for no reason. keep: only so many of the best.
    """
    flat = neuron_map.scores.numpy().reshape(-1)
    order = np.lexsort((np.random.default_rng(seed).permutation(flat.size), -flat))
    order = order[np.isfinite(flat[order])]
    rank = np.zeros(flat.size, dtype=np.int32)
    rank[order] = np.arange(1, len(order) + 1)
    kept_index = np.flatnonzero((rank > 0) & (rank <= (keep or flat.size)))
    layer, neuron = np.divmod(kept_index, neuron_map.scores.shape[1])
    return {
        "layer": np.asarray(neuron_map.layers, dtype=np.int16)[layer],
        "neuron": neuron.astype(np.int32),
        "score": flat[kept_index],
        "rank": rank[kept_index],
    }


def kept_count(neuron_map: NeuronMap, job: Job) -> int:
    """How many of a map's scores are stored: all of a map over all concepts, as others are compared with it."""
    count = int(np.isfinite(neuron_map.scores.numpy()).sum())
    return count if neuron_map.concept is None or job.keep == ALL else min(count, kept_top(job.keep))


def maps_table(run_id: str, job: Job, named_maps: Sequence[tuple[str, NeuronMap]], concepts: Sequence[str]) -> pa.Table:
    """The rows of `maps`. concepts: names, at their local concept ids."""
    concept_ids = {name: i for i, name in enumerate(concepts)}
    rows = []
    for i, (method, neuron_map) in enumerate(named_maps):
        finite = neuron_map.scores.numpy()[np.isfinite(neuron_map.scores.numpy())].astype(np.float64)
        rows.append(
            {
                "map_id": i,
                "run_id": run_id,
                "model_id": 0,
                "concept_id": None if neuron_map.concept is None else concept_ids[neuron_map.concept],
                "method": method,
                "source": neuron_map.source,
                "target": neuron_map.target,
                "component": LANGUAGE,
                "reduce": neuron_map.reduce,
                "tap": job.tap,
                "parameters": json.dumps(job.methods[method.partition(".")[0]], sort_keys=True),
                "examples": neuron_map.examples,
                "neurons": finite.size,
                "mean": float(finite.mean()) if finite.size else 0.0,
                "std": float(finite.std()) if finite.size else 0.0,
                "kept": kept_count(neuron_map, job),
            }
        )
    return pa.Table.from_pylist(rows, schema=arrow_schema(maps))


def score_batches(run_id: str, job: Job, named_maps: Sequence[tuple[str, NeuronMap]]) -> Iterator[pa.RecordBatch]:
    """The rows of `scores`, one batch a map, so that memory holds one map at a time."""
    schema = arrow_schema(scores)
    for i, (_, neuron_map) in enumerate(named_maps):
        columns = rank_columns(
            neuron_map, int(hashlib.sha256(f"{run_id} {i}".encode()).hexdigest()[:15], 16), kept_count(neuron_map, job)
        )
        ids = np.full(len(columns["rank"]), i, dtype=np.int32)
        yield pa.RecordBatch.from_arrays([pa.array(ids), *(pa.array(c) for c in columns.values())], schema=schema)


SKETCH = 1001
"""How many ranks of a map its sketch has: enough for percentiles to a tenth."""


def sketches_table(job: Job, named_maps: Sequence[tuple[str, NeuronMap]]) -> pa.Table:
    """The rows of `sketches`: for each map that is not stored whole, scores at evenly spaced ranks, best to last."""
    parts = [arrow_schema(sketches).empty_table()]
    for i, (_, neuron_map) in enumerate(named_maps):
        values = neuron_map.scores.numpy()
        ordered = np.sort(values[np.isfinite(values)])[::-1]
        if kept_count(neuron_map, job) < ordered.size:
            ranks = np.unique(np.linspace(1, ordered.size, SKETCH).round().astype(np.int32))
            columns = [np.full(len(ranks), i, dtype=np.int32), ranks, ordered[ranks - 1]]
            parts.append(pa.table([pa.array(c) for c in columns], schema=arrow_schema(sketches)))
    return pa.concat_tables(parts)


def exemplars_table(run_id: str, live: LiveModel, top_examples: Exemplars, ids: Sequence[str]) -> pa.Table:
    """The rows of `exemplars`. Neurons that are nowhere above zero have none."""
    tokens = np.array([live.encoder.token(t) for t in range(live.layout.vocabulary)], dtype=object)
    parts = []
    for source, values in top_examples.values.items():
        value = values.numpy()
        example, position, token, role = top_examples.where[source].numpy()
        layer, rank, neuron = np.nonzero(value > 0)
        index = (layer, rank, neuron)
        count = len(layer)
        columns: dict[str, Any] = {
            "run_id": [run_id] * count,
            "component": [LANGUAGE] * count,
            "layer": np.asarray(top_examples.layers, dtype=np.int16)[layer],
            "neuron": neuron.astype(np.int32),
            "source": [source] * count,
            "rank": (rank + 1).astype(np.int16),
            "example_id": np.array(ids, dtype=object)[example[index]],
            "position": position[index],
            "role": np.array(ROLES, dtype=object)[role[index]],
            "token": tokens[token[index]],
            "value": value[index],
        }
        order = [(name, "ascending") for name in ("layer", "neuron", "rank")]
        parts.append(pa.table(columns, schema=arrow_schema(exemplars)).sort_by(order))
    return pa.concat_tables(parts) if parts else arrow_schema(exemplars).empty_table()


def examples_table(dataset_examples: Sequence[Example]) -> pa.Table:
    """The rows of `examples`."""
    rows = [
        {
            "example_id": example.id,
            "dataset_id": 0,
            "source": example.source,
            "task": example.task,
            "split": example.split,
            "prompt": example.prompt,
            "answer": example.answer,
            "media": list(example.media),
            "concepts": sorted({m.concept for m in example.mentions}),
        }
        for example in dataset_examples
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(examples))


def responses_table(answers: Sequence[Response]) -> pa.Table:
    """The rows of `responses`."""
    rows = [
        {
            "model_id": 0,
            "example_id": answer.example_id,
            "generation": answer.generation,
            "text": answer.text,
            "token_ids": list(answer.token_ids),
        }
        for answer in answers
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(responses))
