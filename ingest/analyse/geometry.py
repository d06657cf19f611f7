"""How the kinds of token lie and flow through the layers, as numbers: with a set of neurons ablated, and without.

After the analyses of Huang et al. 2024 (MINER), whose code was not released; the quantities are this project's. Layer l
is the residual stream that enters layer l (0: the embeddings; the last number, one more than there are layers: what
enters the final norm), except for attention and saliency, which belong to layer l itself. Every source by itself:

    centroid_distance   1 - cosine between the mean representations of two roles, over all positions
    linear_cka          between two roles' mean representations in each example, over sampled examples
    knn_mixing          share of a sampled token's nearest neighbours that have another role; knn_chance: by chance
    probe_accuracy      of a linear classifier of roles on sampled tokens of held-out examples; probe_chance: of
                        always naming the commonest role
    semantic_probing    mean cosine distance of image (video, audio) tokens to the text tokens' centroid
    semantic_telomere   the same of special tokens; text_spread: of the text tokens themselves
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
from ingest.analyse.representations import Representations
from ingest.attribution.trace import Item, shortest_first, traced
from ingest.data.examples import IMAGE, Example
from ingest.evaluate.controls import LAYERS, Controls
from ingest.evaluate.edit import on_random_neurons
from ingest.job import Execution, Job
from ingest.run import prepare
from ingest.run.encode_examples import ExampleEncoder, batches
from ingest.run.map_step import Progress
from ingest.run.session import prepare_job, run_of

PROJECTIONS = ("pca", "tsne")


@dataclass(frozen=True, slots=True)
class GeometrySettings:
    """sample: tokens of each role, and examples, that are kept. neighbours: of knn_mixing. projections: of points;
    points: tokens of each role that are drawn."""

    sample: int = 200
    neighbours: int = 10
    projections: tuple[str, ...] = PROJECTIONS
    points: int = 100

    def __post_init__(self) -> None:
        for name in self.projections:
            if name not in PROJECTIONS:
                raise UsageError(f"no projection called '{name}'; there are: {', '.join(PROJECTIONS)}")
        if min(self.sample, self.neighbours, self.points) < 1:
            raise UsageError("sample, neighbours and points must be at least 1")


@dataclass(frozen=True, slots=True)
class AblatedNeurons:
    """The neurons to look without, and what they are: an edit's label or a run's labels."""

    name: str
    intervention: Intervention
    fingerprint: str


@dataclass(frozen=True, slots=True)
class GeometryRun:
    """The stored measures. fresh: False where the same had been measured before."""

    run_id: str
    fresh: bool
    rows: pa.Table
    skipped: Mapping[str, Any]


@dataclass
class Observations:
    """What one condition gathers, by source."""

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
    """Measure a model on a dataset's prompts and store the numbers, and points to draw, as a run of their own.

    Raises:
        Unsupported: scikit-learn is not installed, or the model does not give its attention weights.
        UsageError: the neurons are of other weights than the model has now, or examples ask for pictures.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise Unsupported("the probe and t-SNE need scikit-learn: pip install 'neuron-atlas[analysis]'")
    asked = prepare_job(job, execution)
    require_words("geometry", asked.examples)
    live = prepare.load_model(asked.job, execution)
    if ablated is not None and ablated.fingerprint != live.fingerprint:
        raise UsageError(f"{ablated.name} is of other weights than {live.name} has now; make it again for this model")
    more = _asked(settings, ablated)
    with run_of(atlas, "geometry", asked, live, execution, identity=live.identity, extra_fields=more) as run:
        if run.done:
            return GeometryRun(run.run_id, False, stored_measures(atlas, run.run_id), {})
        seen = _look(live, run.encoder, asked.job, execution, settings, ablated, asked.examples, progress)
        seed = asked.job.seed
        rows = pa.Table.from_pylist(_rows(run.run_id, seen, settings, seed), schema=arrow_schema(measures))
        ids = [e.id for e in asked.examples]
        points = point_rows(run.run_id, seen["before"].places, settings, seed, ids)
        outcome = run.finish({"measures": rows.num_rows}, {"measures": rows, "points": points})
    return GeometryRun(run.run_id, True, rows, outcome["skipped"])


def require_words(command: str, examples: Sequence[Example]) -> None:
    """Raise UsageError where examples ask for pictures: those have no words whose tokens could be looked at."""
    drawn = ",".join(sorted({example.task for example in examples if example.target == IMAGE}))
    if drawn:
        raise UsageError(f"atlas {command} looks at answers in words, and {drawn} asks for pictures; use other --tasks")


def _asked(settings: GeometrySettings, ablated: AblatedNeurons | None) -> dict[str, Any]:
    """What the job says beyond model and examples."""
    without = None if ablated is None else digest(ablated.intervention)
    return {"methods": {}, "geometry": asdict(settings), "without": without, "tap": PRODUCT}


def _look(
    live: LiveModel,
    feed: ExampleEncoder,
    job: Job,
    execution: Execution,
    settings: GeometrySettings,
    ablated: AblatedNeurons | None,
    examples: Sequence[Example],
    progress: Progress,
) -> dict[str, Observations]:
    """Every batch under every condition: before; and with neurons to look without: edit, and random ones."""
    conditions: dict[str, Intervention | None] = {"before": None}
    if ablated is not None:
        conditions["edit"] = ablated.intervention
        conditions["random"] = on_random_neurons(ablated.intervention, Controls(LAYERS, live.layout.width), job.seed)
    seen = {name: Observations() for name in conditions}
    layers = check_layers(live.layout, parse_layers(job.layers) if job.layers else None)
    last = len(live.layout.layers)
    depths = [*layers, last] if last - 1 in layers else list(layers)
    done = 0
    for source in job.sources:
        for mine in seen.values():
            mine.places[source] = Representations(depths, settings.sample, job.seed)
            mine.flows[source] = AttentionFlow(layers)
        numbered = [(n, e) for n, e in enumerate(examples) if e.source == source]
        for some in batches(numbered, 4 * execution.batch_size):
            items = shortest_first(feed.items(some, execution.batch_size))
            for name, intervention in conditions.items():
                with nullcontext() if intervention is None else changing(live, intervention):
                    for chosen in batches(items, execution.batch_size):
                        _gather(live, chosen, source, layers, seen[name])
            done += len(some)
            progress(done, len(examples))
    return seen


def _gather(live: LiveModel, items: Sequence[Item], source: str, layers: Sequence[int], seen: Observations) -> None:
    with traced(live, items, source, layers=layers, tap=PRODUCT, grad=True, attention=True) as trace:
        seen.places[source].update(trace)
        seen.flows[source].update(trace)


def _rows(run_id: str, seen: Mapping[str, Observations], settings: GeometrySettings, seed: int) -> list[dict[str, Any]]:
    usual = {"run_id": run_id, "method": None, "concept": None}
    out = []
    for condition, mine in seen.items():
        for source, places in mine.places.items():
            labels = {**usual, "source": source, "condition": condition}
            found = [*place_rows(places, settings.neighbours, seed), *flow_rows(mine.flows[source])]
            out += [{**labels, **row} for row in found]
    return out


def stored_measures(atlas: Path, run_id: str) -> pa.Table:
    """The measures of a run that is done."""
    with open_readonly(atlas) as connection:
        query = "SELECT * FROM measures WHERE run_id = $run_id"
        table: pa.Table = connection.sql(query, params={"run_id": run_id}).to_arrow_table()
        return table
