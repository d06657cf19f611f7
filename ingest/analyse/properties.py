"""Properties that papers claim for the neurons that a method finds, as numbers beside what chance gives.

A top is the k best neurons, of an example's own map unless stated otherwise (properties of Pan et al. 2023; section 4
of NAM, Fang et al. 2024):

    sensitivity         share of the concept's top k that raise one of its words among their first ten tokens
    region_invariance   share of an example's top k that stay when its image tokens are shuffled
    image_invariance    share of the top k that two examples of the concept have in common; beside it (`others`) what
                        an example of the concept and one of another have
    sample_invariance   share of the top k that the maps of two random halves of the examples have in common
    exclusivity         share of the concept's top k that are in no other concept's

`random` is what k random neurons would give. Maps of single examples are reduced to their tops at once, and only the
first 50 of a concept are kept, so that memory does not grow with their number. A method with several parts is measured
by its first (`two_stage.stage1`); the method `random`, which draws once for all examples, has no properties.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.live.encode import IMAGE_ROLE
from atlas.live.hooks import check_layers, shuffling
from atlas.live.logit_lens import choices
from atlas.live.model import LiveModel
from atlas.neurons import parse_layers
from atlas.stats.intervals import Interval, of_values
from atlas.store.arrow_types import arrow_schema
from atlas.store.schema import measures
from ingest.analyse.geometry import GeometryRun, require_words, stored_measures
from ingest.attribution.estimators import GRADIENT, TEXT_TARGET, PairMethod
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import traced
from ingest.data.examples import IMAGE
from ingest.data.targets import NONE
from ingest.job import Execution, Job
from ingest.run import prepare
from ingest.run.encode_examples import batches
from ingest.run.map_step import Progress
from ingest.run.resolve import methods, needs
from ingest.run.session import ModelSession, prepare_job, run_of

REPEATS = 10
MOST = 50
"""How many examples of a concept have their tops kept and compared in pairs."""

WORDS = 10
"""How many of a neuron's tokens are searched for the concept's words."""


@dataclass
class ConceptSums:
    """What is collected for one concept and source: each example's top neurons, best first, and sums over random
    halves."""

    tops: list[np.ndarray] = field(default_factory=list)
    shuffled: list[np.ndarray] = field(default_factory=list)
    halves: list[list[Tensor | None]] = field(default_factory=lambda: [[None, None] for _ in range(REPEATS)])
    words: set[int] = field(default_factory=set)
    total: Tensor | None = None
    examples: int = 0
    part: str = ""


def measure(
    atlas: Path,
    job: Job,
    execution: Execution,
    ks: Sequence[int],
    progress: Progress = lambda done, total: None,
) -> GeometryRun:
    """Measure the job's one method on its concepts and store the numbers as a run of their own.

    Raises:
        UsageError: not exactly one method, or one without a map for each example; examples ask for pictures, or the
            method explains pictures.
    """
    prepared = prepare_job(job, execution)
    (name, method), *others = methods(prepared.job).items()
    if others or not isinstance(method, PairMethod) or not method.per_example:
        raise UsageError("properties are of one method that scores every example, such as contribution")
    if TEXT_TARGET not in method.targets:
        raise UsageError(f"properties are of words, and {name} explains pictures; use [[method=contribution]]")
    require_words("properties", prepared.examples)
    live = prepare.load_model(prepared.job, execution)
    layers = check_layers(live.layout, parse_layers(prepared.job.layers) if prepared.job.layers else None)
    if max(ks) > len(layers) * live.layout.width or min(ks) < 1:
        raise UsageError(f"[[top]] must be between 1 and {len(layers) * live.layout.width}")
    extra = {"properties": list(ks)}
    with run_of(atlas, "properties", prepared, live, execution, identity=live.identity, extra_fields=extra) as run:
        if run.done:
            return GeometryRun(run.run_id, False, stored_measures(atlas, run.run_id), {})
        rows = [{"run_id": run.run_id, **row} for row in _measured(run, name, method, layers, ks, progress)]
        rows_table = pa.Table.from_pylist(rows, schema=arrow_schema(measures))
        outcome = run.finish({"measures": rows_table.num_rows}, {"measures": rows_table})
    return GeometryRun(run.run_id, True, rows_table, outcome["skipped"])


def _measured(
    run: ModelSession, name: str, method: PairMethod, layers: Sequence[int], ks: Sequence[int], progress: Progress
) -> Iterator[dict[str, Any]]:
    """The rows of every source, from one pass over its examples."""
    job, size = run.prepared.job, run.execution.batch_size
    done = 0
    for source in job.sources:
        if method.sources is not None and source not in method.sources:
            continue
        by_concept: dict[str, ConceptSums] = {}
        for chunk in batches([(n, e) for n, e in run.prepared.numbered if e.source == source], 4 * size):
            for chosen in batches(shortest_first(run.encoder.items(chunk, size)), size):
                _gather(run.live, method, job, chosen, source, max(ks), by_concept)
            done += len(chunk)
            progress(done, len(run.prepared.examples))
        part = {c.part for c in by_concept.values()}.pop() if by_concept else ""
        labels = {"method": f"{name}.{part}" if part else name, "source": source, "layer": None}
        yield from ({**labels, **row} for row in _rows(run.live, layers, by_concept, ks))


def _gather(
    live: LiveModel,
    method: PairMethod,
    job: Job,
    items: Sequence[Item],
    source: str,
    k: int,
    by_concept: dict[str, ConceptSums],
) -> None:
    concepts, numbers, scores, words, part = _scored(live, method, job, items, source, shuffle=False)
    for p, concept in enumerate(concepts):
        if concept == NONE:
            continue
        sums = by_concept.setdefault(concept, ConceptSums())
        if len(sums.tops) < MOST:
            sums.tops.append(_top(scores[p], k, 2 * numbers[p]))
        sums.examples, sums.part = sums.examples + 1, part
        sums.words |= words[p]
        sums.total = scores[p] if sums.total is None else sums.total + scores[p]
        for repeat, halves in enumerate(sums.halves):
            side = random.Random(f"{job.seed} {repeat} {numbers[p]}").randrange(2)
            previous = halves[side]
            halves[side] = scores[p] if previous is None else previous + scores[p]
    if source == IMAGE:
        concepts, numbers, scores, _, _ = _scored(live, method, job, items, source, shuffle=True)
        for p, concept in enumerate(concepts):
            if concept != NONE and len(by_concept[concept].shuffled) < MOST:
                by_concept[concept].shuffled.append(_top(scores[p], k, 2 * numbers[p] + 1))


def _scored(
    live: LiveModel, method: PairMethod, job: Job, items: Sequence[Item], source: str, *, shuffle: bool
) -> tuple[list[str], list[int], Tensor, list[set[int]], str]:
    """Each pair's concept (NONE where the method cannot score it), example number, (L * N,) scores and target tokens;
    and the name of the method's first part, which the scores are of."""
    layers = parse_layers(job.layers) if job.layers else None
    grad = GRADIENT in needs(job)
    if not shuffle:
        with traced(live, items, source, layers=layers, tap=job.tap, grad=grad) as trace:
            parts = method.scores(trace)
    else:
        with (
            shuffling(live.layout, _orders(live, items, job.seed)),
            traced(live, items, source, layers=layers, tap=job.tap, grad=grad) as trace,
        ):
            parts = method.scores(trace)
    part, pair_scores = next(iter(parts.items()))
    scores = pair_scores.transpose(0, 1).flatten(1).detach().cpu()
    concepts = [c if can else NONE for c, can in zip(trace.concepts, method.scored(trace), strict=True)]
    words: list[set[int]] = [set() for _ in trace.concepts]
    for pair, token in zip(trace.pair_of.tolist(), trace.tokens.tolist(), strict=True):
        words[pair].add(token)
    return concepts, [items[r].number for r in trace.pairs.tolist()], scores, words, part


def _orders(live: LiveModel, items: Sequence[Item], seed: int) -> Tensor:
    """(B, T): positions with each row's image positions shuffled, and the others in order."""
    roles = live.batch([item.prompt for item in items]).roles
    order = torch.arange(roles.shape[1], device=roles.device).repeat(len(items), 1)
    for row, item in enumerate(items):
        image = (roles[row] == IMAGE_ROLE).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + item.number)
        order[row, image] = image[torch.randperm(len(image), generator=generator).to(image.device)]
    return order


def _top(scores: Tensor, k: int, draw: int) -> np.ndarray:
    """The k best neurons as indices in (layer, neuron) order, best first; ties in a random order by `draw`, as many
    scores may be 0 and would overlap for no reason."""
    chance = np.random.default_rng(draw).permutation(len(scores))
    order: np.ndarray = np.lexsort((chance, -scores.nan_to_num(-torch.inf).numpy()))[:k]
    return order


def _rows(
    live: LiveModel, layers: Sequence[int], by_concept: Mapping[str, ConceptSums], ks: Sequence[int]
) -> Iterator[dict[str, Any]]:
    tokens = choices(live, WORDS)
    raised = torch.cat([tokens[layer, "top"] for layer in layers])  # (L * N, WORDS)
    for k, (concept, sums) in product(ks, sorted(by_concept.items())):
        labels = {"concept": concept, "first": f"top {k}", "second": None, "examples": sums.examples}
        says = torch.isin(raised, torch.tensor(sorted(sums.words))).any(-1).numpy()
        for (name, condition), values in _values(concept, sums, by_concept, k, says).items():
            if values:
                interval = _interval(name, condition, values, len(sums.tops))
                row = {"name": name, "condition": condition, "value": float(np.mean(values))}
                yield labels | row | {"low": interval.low, "high": interval.high}


def _interval(name: str, condition: str, values: Sequence[float], examples: int) -> Interval:
    """The interval over examples.

    Pairs that share an example are dependent, so the interval of their mean is that of a U-statistic (Hoeffding 1948):
    of each example's mean over its pairs, twice as far from the overall mean. Random halves of the same examples, and
    pairs with other concepts' examples, say nothing about other examples and have no interval."""
    if (name, condition) == ("region_invariance", "before"):
        return of_values(values, (0.0, 1.0))
    if (name, condition) != ("image_invariance", "before"):
        return Interval(None, None, 0)
    sums, middle = np.zeros(examples), float(np.mean(values))
    for (a, b), value in zip(combinations(range(examples), 2), values, strict=True):
        sums[[a, b]] += value
    return of_values(middle + 2 * (sums / (examples - 1) - middle), (0.0, 1.0))


def _values(
    concept: str, sums: ConceptSums, by_concept: Mapping[str, ConceptSums], k: int, says: np.ndarray
) -> dict[tuple[str, str], list[float]]:
    """(property, condition) -> the values that it is the mean of; none where it is undefined."""
    chance = [k / len(says)]
    best = _best(concept, sums, k)
    other_concepts = {c: o for c, o in by_concept.items() if c != concept}
    others = {n for c, o in other_concepts.items() for n in _best(c, o, k).tolist()}
    after_shuffling = [_share(a[:k], b[:k]) for a, b in zip(sums.tops, sums.shuffled, strict=bool(sums.shuffled))]
    within_concept = [_share(a[:k], b[:k]) for a, b in combinations(sums.tops, 2)]
    halves = [_share(_top(a, k, 0), _top(b, k, 1)) for a, b in sums.halves if a is not None and b is not None]
    across_concepts = [_share(a[:k], b[:k]) for o in other_concepts.values() for a, b in product(sums.tops, o.tops)]
    exclusive = [float(np.mean([n not in others for n in best.tolist()]))] if other_concepts else []
    return {
        ("sensitivity", "before"): [float(says[best].mean())],
        ("sensitivity", "random"): [float(says.mean())],
        ("region_invariance", "before"): after_shuffling,
        ("region_invariance", "random"): chance if after_shuffling else [],
        ("image_invariance", "before"): within_concept,
        ("image_invariance", "others"): across_concepts,
        ("image_invariance", "random"): chance if within_concept else [],
        ("sample_invariance", "before"): halves,
        ("sample_invariance", "random"): chance if halves else [],
        ("exclusivity", "before"): exclusive,
        ("exclusivity", "random"): [(1 - chance[0]) ** len(other_concepts)] if exclusive else [],
    }


def _best(name: str, concept: ConceptSums, k: int) -> np.ndarray:
    assert concept.total is not None
    return _top(concept.total, k, zlib.crc32(name.encode()))


def _share(a: np.ndarray, b: np.ndarray) -> float:
    return len(np.intersect1d(a, b)) / len(a)
