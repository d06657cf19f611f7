"""What a run found, as Arrow tables in the form of `atlas.store.schema`, with the run's local ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from atlas.live.finite import NotFinite
from atlas.live.logit_lens import decode
from atlas.live.model import LiveModel
from atlas.neurons import LANGUAGE
from atlas.store.schema import arrow_schema, decodings, examples, exemplars, maps, responses, scores, sketches
from atlas.token_roles import ROLES
from ingest.attribution.estimators import NeuronMap
from ingest.attribution.exemplars import Exemplars
from ingest.data.examples import Example
from ingest.job import ALL, Job, kept_top
from ingest.run.encode_examples import Response
from ingest.run.map_step import State


def collect_maps(state: State, job: Job) -> list[tuple[str, NeuronMap]]:
    """Every method's maps of the reductions the job asks for, in a fixed order; some may have no score at all.

    Raises:
        NotFinite: a score is infinite.
    """
    found = [
        (f"{name}.{found.part}" if found.part else name, found)
        for name, method in {**state.methods, **state.answers}.items()
        for found in method.result()
        if found.reduce in job.reduce or found.concept is None
    ]
    for name, m in found:
        if m.scores.isinf().any():
            raise NotFinite(
                f"the scores of {name} for {m.concept or 'all concepts'} ({m.source}, {m.reduce}) are beyond float32; "
                "leave the method or the --reduce out"
            )
    return found


def with_scores(found: Sequence[tuple[str, NeuronMap]]) -> list[tuple[str, NeuronMap]]:
    """The maps with a score: one without would stand before an older run's, and answer nothing."""
    return [(name, m) for name, m in found if not m.scores.isnan().all()]


def concepts_without_map(found: Sequence[tuple[str, NeuronMap]]) -> dict[str, list[str]]:
    """method -> the concepts of which it has parts, or maps without a score, and, as no neuron passed, no map."""
    have = {(name, m.source, m.concept) for name, m in with_scores(found)}
    lacking: dict[str, set[str]] = {}
    for name, m in found:
        method, dot, _ = name.partition(".")
        some = bool(dot) or bool(m.scores.isnan().all())
        if some and m.concept is not None and (method, m.source, m.concept) not in have:
            lacking.setdefault(method, set()).add(m.concept)
    return {method: sorted(concepts) for method, concepts in sorted(lacking.items())}


def rank_columns(found: NeuronMap, seed: int = 0, keep: int | None = None) -> dict[str, np.ndarray]:
    """layer, neuron, score, rank of a map in the order of its neurons, without what has no score.

    Equal scores come in an order that `seed` draws: most scores of a map may be exactly 0, and any order that maps
    share would make their tops overlap for no reason. keep: only the best so many.
    """
    flat = found.scores.numpy().reshape(-1)
    order = np.lexsort((np.random.default_rng(seed).permutation(flat.size), -flat))
    order = order[np.isfinite(flat[order])]
    rank = np.zeros(flat.size, dtype=np.int32)
    rank[order] = np.arange(1, len(order) + 1)
    kept = np.flatnonzero((rank > 0) & (rank <= (keep or flat.size)))
    layer, neuron = np.divmod(kept, found.scores.shape[1])
    return {
        "layer": np.asarray(found.layers, dtype=np.int16)[layer],
        "neuron": neuron.astype(np.int32),
        "score": flat[kept],
        "rank": rank[kept],
    }


def kept_count(found: NeuronMap, job: Job) -> int:
    """How many of a map's scores are stored. Maps over all concepts are what others are measured against: all."""
    count = int(np.isfinite(found.scores.numpy()).sum())
    return count if found.concept is None or job.keep == ALL else min(count, kept_top(job.keep))


def maps_table(run_id: str, job: Job, found: Sequence[tuple[str, NeuronMap]], concepts: Sequence[str]) -> pa.Table:
    """concepts: the names that local concept ids count."""
    place = {name: i for i, name in enumerate(concepts)}
    rows = []
    for i, (method, m) in enumerate(found):
        finite = m.scores.numpy()[np.isfinite(m.scores.numpy())].astype(np.float64)
        rows.append(
            {
                "map_id": i,
                "run_id": run_id,
                "model_id": 0,
                "concept_id": None if m.concept is None else place[m.concept],
                "method": method,
                "source": m.source,
                "target": m.target,
                "component": LANGUAGE,
                "reduce": m.reduce,
                "tap": job.tap,
                "parameters": json.dumps(job.methods[method.partition(".")[0]], sort_keys=True),
                "examples": m.examples,
                "neurons": finite.size,
                "mean": float(finite.mean()) if finite.size else 0.0,
                "std": float(finite.std()) if finite.size else 0.0,
                "kept": kept_count(m, job),
            }
        )
    return pa.Table.from_pylist(rows, schema=arrow_schema(maps))


def score_batches(run_id: str, job: Job, found: Sequence[tuple[str, NeuronMap]]) -> Iterator[pa.RecordBatch]:
    """One batch a map, so that memory holds one map at a time."""
    schema = arrow_schema(scores)
    for i, (_, m) in enumerate(found):
        columns = rank_columns(
            m, int(hashlib.sha256(f"{run_id} {i}".encode()).hexdigest()[:15], 16), kept_count(m, job)
        )
        ids = np.full(len(columns["rank"]), i, dtype=np.int32)
        yield pa.RecordBatch.from_arrays([pa.array(ids), *(pa.array(c) for c in columns.values())], schema=schema)


SKETCH = 1001
"""How many ranks of a map its sketch has: percentiles from it are right to a tenth."""


def sketches_table(job: Job, found: Sequence[tuple[str, NeuronMap]]) -> pa.Table:
    """Of every map that does not keep all its scores, those at ranks evenly spaced from the best to the last."""
    parts = [arrow_schema(sketches).empty_table()]
    for i, (_, m) in enumerate(found):
        values = m.scores.numpy()
        ordered = np.sort(values[np.isfinite(values)])[::-1]
        if kept_count(m, job) < ordered.size:
            ranks = np.unique(np.linspace(1, ordered.size, SKETCH).round().astype(np.int32))
            columns = [np.full(len(ranks), i, dtype=np.int32), ranks, ordered[ranks - 1]]
            parts.append(pa.table([pa.array(c) for c in columns], schema=arrow_schema(sketches)))
    return pa.concat_tables(parts)


def exemplars_table(run_id: str, live: LiveModel, kept: Exemplars, ids: Sequence[str]) -> pa.Table:
    """Neurons that are nowhere above zero have no exemplar."""
    tokens = np.array([live.encoder.token(t) for t in range(live.layout.vocabulary)], dtype=object)
    parts = []
    for source, values in kept.values.items():
        value = values.numpy()
        example, position, token, role = kept.where[source].numpy()
        layer, rank, neuron = np.nonzero(value > 0)
        at = (layer, rank, neuron)
        count = len(layer)
        columns: dict[str, Any] = {
            "run_id": [run_id] * count,
            "component": [LANGUAGE] * count,
            "layer": np.asarray(kept.layers, dtype=np.int16)[layer],
            "neuron": neuron.astype(np.int32),
            "source": [source] * count,
            "rank": (rank + 1).astype(np.int16),
            "example_id": np.array(ids, dtype=object)[example[at]],
            "position": position[at],
            "role": np.array(ROLES, dtype=object)[role[at]],
            "token": tokens[token[at]],
            "value": value[at],
        }
        order = [(name, "ascending") for name in ("layer", "neuron", "rank")]
        parts.append(pa.table(columns, schema=arrow_schema(exemplars)).sort_by(order))
    return pa.concat_tables(parts) if parts else arrow_schema(exemplars).empty_table()


def decodings_batches(live: LiveModel, top: int = 10) -> Iterator[pa.RecordBatch]:
    """Every neuron of the model as tokens, with and without the final norm."""
    schema = arrow_schema(decodings)
    for norm in (False, True):
        for block in decode(live, norm=norm, top=top):
            count, k = block.tokens.shape
            offsets = np.arange(0, (count + 1) * k, k, dtype=np.int32)
            ids = block.tokens.numpy().astype(np.int32).reshape(-1)
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array(np.zeros(count, dtype=np.int32)),
                    pa.array([LANGUAGE] * count),
                    pa.array(np.full(count, block.layer, dtype=np.int16)),
                    pa.array(np.arange(block.first, block.first + count, dtype=np.int32)),
                    pa.array(np.full(count, norm)),
                    pa.array([block.side] * count),
                    pa.ListArray.from_arrays(offsets, pa.array([live.encoder.token(int(t)) for t in ids])),
                    pa.ListArray.from_arrays(offsets, pa.array(ids)),
                    pa.ListArray.from_arrays(offsets, pa.array(block.logits.numpy().reshape(-1))),
                ],
                schema=schema,
            )


def examples_table(found: Sequence[Example]) -> pa.Table:
    rows = [
        {
            "example_id": e.id,
            "dataset_id": 0,
            "source": e.source,
            "task": e.task,
            "split": e.split,
            "prompt": e.prompt,
            "answer": e.answer,
            "media": list(e.media),
            "concepts": sorted({m.concept for m in e.mentions}),
        }
        for e in found
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(examples))


def responses_table(made: Sequence[Response]) -> pa.Table:
    rows = [
        {
            "model_id": 0,
            "example_id": r.example_id,
            "generation": r.generation,
            "text": r.text,
            "token_ids": list(r.token_ids),
        }
        for r in made
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(responses))
