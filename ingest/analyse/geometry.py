"""The geometry of the kinds of token across layers, and what flows between them, with and without a set of neurons.

After the analyses of Huang et al. 2024 (MINER), whose code was not released; the quantities are this project's. Layer l
is the residual stream that enters layer l (0: the embeddings; the number of layers: what enters the final norm), except
for attention and saliency, which belong to layer l itself. For each source separately:

    centroid_distance   1 - cosine between the mean representations of two roles, over all positions
    linear_cka          between two roles' mean representations in each example, over sampled examples
    knn_mixing          share of a sampled token's nearest neighbours that have another role; knn_chance: by chance
    probe_accuracy      of a linear classifier of roles on sampled tokens of held-out examples; probe_chance: of
                        always naming the commonest role
    semantic_probing    mean cosine distance of image (video, audio) tokens to the text tokens' centroid
    semantic_telomere   the same of special tokens; text_spread: of the text tokens themselves
    lens_entropy        of the next token, in nats, where the final norm and the unembedding read a sampled token's
                        stream (the logit lens); lens_uniform: where every token is as likely
    attention_contribution, attention_share, saliency, saliency_share    see `ingest.analyse.attention_flow`
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.edits.edit import Intervention
from atlas.edits.files import digest
from atlas.errors import Unsupported, UsageError
from atlas.live.edit.apply import changing
from atlas.live.hooks import check_layers
from atlas.live.model import LiveModel
from atlas.neurons import PRODUCT, parse_layers
from atlas.store.arrow_types import arrow_schema
from atlas.store.database import open_readonly
from atlas.store.schema import measures
from ingest.analyse.attention_flow import AttentionFlow
from ingest.analyse.geometry_rows import flow_rows, place_rows, point_rows
from ingest.analyse.lens import Lens
from ingest.analyse.representations import Representations
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import traced
from ingest.data.examples import IMAGE, Example
from ingest.evaluate.controls import LAYERS, Controls
from ingest.evaluate.edit import on_random_neurons
from ingest.job import Execution, Job
from ingest.run import prepare
from ingest.run.encode_examples import ExampleEncoder, batches
from ingest.run.map_step import Progress
from ingest.run.session import prepare_job, run_of

PROJECTIONS = ("pca", "tsne", "umap")
LAID_OUT = ("before", "edit")
"""The conditions whose tokens are laid out; of random neurons the distances are enough."""


@dataclass(frozen=True, slots=True)
class GeometrySettings:
    """What to measure. sample: how many tokens of each role, and examples, are kept. neighbours: of knn_mixing.
    projections: of the points to plot. points: how many tokens of each role are plotted."""

    sample: int = 200
    neighbours: int = 10
    projections: tuple[str, ...] = ("pca", "tsne")
    points: int = 100

    def __post_init__(self) -> None:
        for name in self.projections:
            if name not in PROJECTIONS:
                raise UsageError(f"no projection called '{name}'; there are: {', '.join(PROJECTIONS)}")
        if min(self.sample, self.neighbours, self.points) < 1:
            raise UsageError("sample, neighbours and points must be at least 1")


@dataclass(frozen=True, slots=True)
class AblatedNeurons:
    """Neurons to ablate, and where they are from: an edit's label or a run's labels."""

    name: str
    intervention: Intervention
    fingerprint: str


@dataclass(frozen=True, slots=True)
class GeometryRun:
    """A run's stored measures. fresh: False where the same had been measured before."""

    run_id: str
    fresh: bool
    rows: pa.Table
    skipped: Mapping[str, Any]


@dataclass
class Observations:
    """What is collected under one condition, by source."""

    places: dict[str, Representations] = field(default_factory=dict)
    flows: dict[str, AttentionFlow] = field(default_factory=dict)


def measure(
    atlas: Path,
    job: Job,
    execution: Execution,
    settings: GeometrySettings,
    ablated: AblatedNeurons | None = None,
    progress: Progress = lambda done, total: None,
) -> GeometryRun:
    """Measure a model on a dataset's prompts and store the numbers, and points to plot, as a run of their own.

    Raises:
        Unsupported: scikit-learn, or for umap umap-learn, is not installed, or the model does not provide attention
        weights.
        UsageError: the neurons are of other weights than the model has now, or examples ask for pictures.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise Unsupported("the probe and t-SNE need scikit-learn: pip install 'neuron-atlas[analysis]'")
    if "umap" in settings.projections and importlib.util.find_spec("umap") is None:
        raise Unsupported("the projection umap needs umap-learn: pip install umap-learn")
    prepared = prepare_job(job, execution)
    require_words("geometry", prepared.examples)
    live = prepare.load_model(prepared.job, execution)
    if ablated is not None and ablated.fingerprint != live.fingerprint:
        raise UsageError(f"{ablated.name} is of other weights than {live.name} has now; make it again for this model")
    extra = _extra_fields(settings, ablated)
    with run_of(atlas, "geometry", prepared, live, execution, identity=live.identity, extra_fields=extra) as run:
        if run.done:
            return GeometryRun(run.run_id, False, stored_measures(atlas, run.run_id), {})
        observed = _look(live, run.encoder, prepared.job, execution, settings, ablated, prepared.examples, progress)
        seed = prepared.job.seed
        all_rows = _rows(run.run_id, observed, settings, seed, Lens(live))
        rows = pa.Table.from_pylist(all_rows, schema=arrow_schema(measures))
        ids = [e.id for e in prepared.examples]
        laid_out = {name: observed[name].places for name in LAID_OUT if name in observed}
        points = point_rows(run.run_id, laid_out, settings, seed, ids)
        outcome = run.finish({"measures": rows.num_rows}, {"measures": rows, "points": points})
    return GeometryRun(run.run_id, True, rows, outcome["skipped"])


def require_words(command: str, examples: Sequence[Example]) -> None:
    """Raise UsageError where examples ask for pictures: their answers have no words."""
    drawn = ",".join(sorted({example.task for example in examples if example.target == IMAGE}))
    if drawn:
        raise UsageError(f"atlas {command} reads answers in words, and {drawn} asks for pictures; use other [[tasks]]")


def _extra_fields(settings: GeometrySettings, ablated: AblatedNeurons | None) -> dict[str, Any]:
    """The job's fields besides model and examples."""
    without = None if ablated is None else digest(ablated.intervention)
    done = {**asdict(settings), "lens": True} | ({} if ablated is None else {"laid_out": list(LAID_OUT)})
    return {"methods": {}, "geometry": done, "without": without, "tap": PRODUCT}


def _look(
    live: LiveModel,
    encoder: ExampleEncoder,
    job: Job,
    execution: Execution,
    settings: GeometrySettings,
    ablated: AblatedNeurons | None,
    examples: Sequence[Example],
    progress: Progress,
) -> dict[str, Observations]:
    """The observations of every condition: before and, where neurons are ablated, edit and random."""
    conditions: dict[str, Intervention | None] = {"before": None}
    if ablated is not None:
        conditions["edit"] = ablated.intervention
        conditions["random"] = on_random_neurons(ablated.intervention, Controls(LAYERS, live.layout.width), job.seed)
    observed = {name: Observations() for name in conditions}
    layers = check_layers(live.layout, parse_layers(job.layers) if job.layers else None)
    last = len(live.layout.layers)
    depths = [*layers, last] if last - 1 in layers else list(layers)
    done = 0
    for source in job.sources:
        for observations in observed.values():
            observations.places[source] = Representations(depths, settings.sample, job.seed)
            observations.flows[source] = AttentionFlow(layers)
        numbered = [(n, e) for n, e in enumerate(examples) if e.source == source]
        for chunk in batches(numbered, 4 * execution.batch_size):
            items = shortest_first(encoder.items(chunk, execution.batch_size))
            for name, intervention in conditions.items():
                with nullcontext() if intervention is None else changing(live, intervention):
                    for chosen in batches(items, execution.batch_size):
                        _gather(live, chosen, source, layers, observed[name])
            done += len(chunk)
            progress(done, len(examples))
    return observed


def _gather(
    live: LiveModel, items: Sequence[Item], source: str, layers: Sequence[int], observations: Observations
) -> None:
    with traced(live, items, source, layers=layers, tap=PRODUCT, grad=True, attention=True) as trace:
        observations.places[source].update(trace)
        observations.flows[source].update(trace)


def _rows(
    run_id: str, observed: Mapping[str, Observations], settings: GeometrySettings, seed: int, lens: Lens
) -> list[dict[str, Any]]:
    defaults = {"run_id": run_id, "method": None, "concept": None}
    all_rows = []
    for condition, observations in observed.items():
        for source, places in observations.places.items():
            labels = {**defaults, "source": source, "condition": condition}
            rows = [*place_rows(places, settings.neighbours, seed, lens), *flow_rows(observations.flows[source])]
            all_rows += [{**labels, **row} for row in rows]
    return all_rows


def stored_measures(atlas: Path, run_id: str) -> pa.Table:
    """The measures of a finished run."""
    with open_readonly(atlas) as connection:
        query = "SELECT * FROM measures WHERE run_id = $run_id"
        table: pa.Table = connection.sql(query, params={"run_id": run_id}).to_arrow_table()
        return table
