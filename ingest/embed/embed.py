"""Vectors for every neuron of a model, in one of three spaces (see `atlas.vectors.spaces`), stored as a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE
from atlas.query.map_spec import MapSpec
from atlas.query.resolve_maps import StoredMap
from atlas.store.arrow_types import arrow_schema
from atlas.store.database import open_readonly
from atlas.store.schema import vectors
from atlas.vectors.faiss_files import unit
from atlas.vectors.neuron_text import TextOptions, concept_maps, neuron_words
from atlas.vectors.profiles import common_facts, profiles, whole_maps
from atlas.vectors.spaces import DECODED, DIRECTION, KIND, pick_model, require_space
from ingest.embed.encoder import DEFAULT, digest_of, open_encoder, require
from ingest.embed.word_vectors import WEIGHT, word_vectors
from ingest.job import Execution, ModelSpec, make_spec
from ingest.run.map_step import Progress
from ingest.run.session import derived_run

if TYPE_CHECKING:
    from atlas.live.model import LiveModel


@dataclass(frozen=True, slots=True)
class EmbedSpec:
    """Which vectors to make. which: the model, and the maps that profiles and best concepts are read from. encoder,
    options: NAME or NAME:ID_OR_FOLDER, with its options. wording: of the texts that it encodes. loaded: a job's dtype
    and quantization, for the live model."""

    space: str
    which: MapSpec = field(default_factory=MapSpec)
    encoder: str = DEFAULT
    options: Mapping[str, Any] = field(default_factory=dict)
    wording: TextOptions = field(default_factory=TextOptions)
    execution: Execution = field(default_factory=Execution)
    loaded: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbeddedRun:
    """A run of vectors. fresh: False where it had been made before. assumed: defaults that were filled in."""

    run_id: str
    space: str
    fresh: bool
    rows: int
    dimension: int
    assumed: tuple[str, ...]


Layers = Iterable[np.ndarray]
"""(width, dimension) float32 for each layer in turn; rows have length 1 or are zero."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to make a space's run: its job, its model, and a function that makes its vectors."""

    job: dict[str, Any]
    model: dict[str, Any]
    dimension: int
    layers: Callable[[Progress], Layers]
    assumed: tuple[str, ...]


def embed(atlas: Path, spec: EmbedSpec, progress: Progress = lambda done, total: None) -> EmbeddedRun:
    """Make a space's vectors and store them as a run; the same job is not run twice.

    progress: called with how many words are embedded, or how many layers are done.

    Raises:
        UsageError: an unknown space, model, map, encoder or option, or maps that keep only their best scores.
        Unsupported: a package or the model's weights are missing.
    """
    require_space(spec.space)
    plan = {DECODED: _decoded, DIRECTION: _directions}.get(spec.space, _profiles)(atlas, spec)
    job = {"space": spec.space, "component": LANGUAGE, "model": plan.model["fingerprint"], **plan.job}
    model = {name: value for name, value in plan.model.items() if name != "model_id"}
    rows = int(plan.model["layers"]) * int(plan.model["width"])
    with derived_run(atlas, KIND, job, model) as run:
        if not run.done:
            batches = vector_batches(run.run_id, plan.layers(progress))
            run.finish({"rows": rows, "dimension": plan.dimension}, {"vectors": batches})
    return EmbeddedRun(run.run_id, spec.space, not run.done, rows, plan.dimension, plan.assumed)


def vector_batches(run_id: str, layers: Layers) -> Iterator[pa.RecordBatch]:
    """The rows of `vectors`, one batch for each layer of the language model."""
    schema = arrow_schema(vectors)
    for layer, matrix in enumerate(layers):
        width, dimension = matrix.shape
        offsets = pa.array(np.arange(width + 1, dtype=np.int32) * np.int32(dimension))
        columns = [
            pa.array([run_id] * width, pa.string()),
            pa.array([LANGUAGE] * width, pa.string()),
            pa.array(np.full(width, layer, np.int16)),
            pa.array(np.arange(width, dtype=np.int32)),
            pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(matrix, np.float32).reshape(-1))),
        ]
        yield pa.RecordBatch.from_arrays(
            [column.cast(part.type) for column, part in zip(columns, schema, strict=True)], schema=schema
        )


def _by_layer(matrix: np.ndarray, width: int) -> Layers:
    return (matrix[start : start + width] for start in range(0, len(matrix), width))


def _defaults(first: Sequence[str], chosen: Sequence[StoredMap]) -> tuple[str, ...]:
    """What was filled in for the maps, each once, without which run they are of."""
    of_maps = [default for stored_map in chosen for default in stored_map.defaults if not default.startswith("run=")]
    return tuple(dict.fromkeys([*first, *of_maps]))


def _of(which: MapSpec, model: Mapping[str, Any]) -> MapSpec:
    return replace(which, model=None, fingerprint=str(model["fingerprint"]))


def _decoded(atlas: Path, spec: EmbedSpec) -> _Plan:
    opened = open_encoder(spec.encoder, {"device": spec.execution.device, **spec.options})
    encoder = require(opened, "text")
    with open_readonly(atlas) as connection:
        model, assumed = pick_model(connection, spec.which.model)
        chosen = concept_maps(connection, _of(spec.which, model))
        words = neuron_words(connection, model, chosen, spec.wording)
    if not any(tokens or concepts for tokens, concepts in words):
        raise UsageError(f"no words are stored for {model['name']}; `atlas ingest` stores its decoded tokens")
    maps = common_facts(chosen) if chosen else None
    wording = {**asdict(spec.wording), "weight": WEIGHT}
    digest = digest_of([json.dumps(neuron, ensure_ascii=True) for neuron in words])
    job = {"encoder": opened.described(), "wording": wording, "maps": maps, "words": digest}
    width = int(model["width"])

    def layers(progress: Progress) -> Layers:
        return _by_layer(word_vectors(encoder, words, progress), width)

    return _Plan(job, model, encoder.dimension, layers, _defaults(assumed, chosen))


def _profiles(atlas: Path, spec: EmbedSpec) -> _Plan:
    with open_readonly(atlas) as connection:
        model, assumed = pick_model(connection, spec.which.model)
        chosen = whole_maps(connection, _of(spec.which, model))
        vectors_by_neuron = unit(profiles(connection, chosen))
    width = int(model["width"])
    return _Plan(
        {"maps": common_facts(chosen)},
        model,
        len(chosen),
        lambda progress: _by_layer(vectors_by_neuron, width),
        _defaults(assumed, chosen),
    )


def _directions(atlas: Path, spec: EmbedSpec) -> _Plan:
    with open_readonly(atlas) as connection:
        model, assumed = pick_model(connection, spec.which.model)
    live = live_model(model, spec.execution, spec.loaded)

    def layers(progress: Progress) -> Layers:
        layer_count = len(live.layout.layers)
        for layer in range(layer_count):
            progress(layer, layer_count)
            yield unit(live.layout.write_vectors(layer).detach().float().cpu().numpy().T)

    return _Plan({"dtype": live.dtype}, model, live.layout.d_model, layers, tuple(assumed))


def live_model(model: Mapping[str, Any], execution: Execution, loaded: Mapping[str, Any]) -> LiveModel:
    """The live model of a stored one, by name and revision. loaded: a job's dtype and quantization.

    Raises:
        UsageError: it cannot be loaded, or its weights are not the stored ones.
    """
    from ingest.run.prepare import load_model

    live = load_model(
        make_spec(ModelSpec, {"model": str(model["name"]), "revision": model["revision"], **loaded}), execution
    )
    if live.fingerprint != model["fingerprint"]:
        raise UsageError(
            f"{model['name']} has other weights now ({live.fingerprint[:12]}) than those in the atlas "
            f"({str(model['fingerprint'])[:12]}); `atlas ingest` adds the new ones (if it was ingested in another "
            "precision, give the same [[quantization]] or [[dtype]]; of several, the [[model]] by its fingerprint)"
        )
    return live
