"""What the papers claim of the neurons that a method finds, as numbers with what chance gives beside them.

With k neurons in a top, of an example's own map where nothing else is said (Pan et al. 2023, their properties; Fang et
al. 2024, section 4 of NAM):

    sensitivity         share of the concept's top k that raise one of its words among their first ten tokens
    region_invariance   share of an example's top k that stay when its image tokens are shuffled
    image_invariance    share of the top k that two examples of the concept have in common; beside it (`others`) what
                        an example of the concept and one of another have
    sample_invariance   share of the top k that the maps of two random halves of the examples have in common
    exclusivity         share of the concept's top k that are in no other concept's

`random` is what k random neurons would give. Maps of single examples are reduced to their tops at once, and only the
first 50 of a concept are kept, so memory does not grow with their number. Of a method with several parts it is the
first (`two_stage.stage1`); the method `random`, which draws once for all examples, has none.
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
from ingest.attribution.trace import Item, shortest_first, traced
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
"""Examples of a concept whose own tops are kept and compared in pairs."""

WORDS = 10
"""Tokens of a neuron that are looked at for the concept's words."""


@dataclass
class ConceptSums:
    """What is kept of one concept and source: each example's top neurons, best first, and sums over random halves."""

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
        UsageError: not exactly one method, or one without a map for each example; pictures are asked for or
            explained.
    """
    asked = prepare_job(job, execution)
    (name, method), *others = methods(asked.job).items()
    if others or not isinstance(method, PairMethod) or not method.per_example:
        raise UsageError("properties are of one method that scores every example, such as contribution")
    if TEXT_TARGET not in method.targets:
        raise UsageError(f"properties are of words, and {name} explains pictures; use --method contribution")
    require_words("properties", asked.examples)
    live = prepare.load_model(asked.job, execution)
    layers = check_layers(live.layout, parse_layers(asked.job.layers) if asked.job.layers else None)
    if max(ks) > len(layers) * live.layout.width or min(ks) < 1:
        raise UsageError(f"--top must lie between 1 and {len(layers) * live.layout.width}")
    more = {"properties": list(ks)}
    with run_of(atlas, "properties", asked, live, execution, identity=live.identity, extra_fields=more) as run:
        if run.done:
            return GeometryRun(run.run_id, False, stored_measures(atlas, run.run_id), {})
        rows = [{"run_id": run.run_id, **row} for row in _measured(run, name, method, layers, ks, progress)]
        found = pa.Table.from_pylist(rows, schema=arrow_schema(measures))
        outcome = run.finish({"measures": found.num_rows}, {"measures": found})
    return GeometryRun(run.run_id, True, found, outcome["skipped"])


def _measured(
    run: ModelSession, name: str, method: PairMethod, layers: Sequence[int], ks: Sequence[int], progress: Progress
) -> Iterator[dict[str, Any]]:
    """The rows of every source, one pass over its examples each."""
    job, size = run.prepared.job, run.execution.batch_size
    done = 0
    for source in job.sources:
        if method.sources is not None and source not in method.sources:
            continue
        seen: dict[str, ConceptSums] = {}
        for some in batches([(n, e) for n, e in run.prepared.numbered if e.source == source], 4 * size):
            for chosen in batches(shortest_first(run.encoder.items(some, size)), size):
                _gather(run.live, method, job, chosen, source, max(ks), seen)
            done += len(some)
            progress(done, len(run.prepared.examples))
        part = {c.part for c in seen.values()}.pop() if seen else ""
        labels = {"method": f"{name}.{part}" if part else name, "source": source, "layer": None}
        yield from ({**labels, **row} for row in _rows(run.live, layers, seen, ks))


def _gather(
    live: LiveModel,
    method: PairMethod,
    job: Job,
    items: Sequence[Item],
    source: str,
    k: int,
    seen: dict[str, ConceptSums],
) -> None:
    concepts, numbers, scores, words, part = _scored(live, method, job, items, source, shuffle=False)
    for p, concept in enumerate(concepts):
        if concept == NONE:
            continue
        mine = seen.setdefault(concept, ConceptSums())
        if len(mine.tops) < MOST:
            mine.tops.append(_top(scores[p], k, 2 * numbers[p]))
        mine.examples, mine.part = mine.examples + 1, part
        mine.words |= words[p]
        mine.total = scores[p] if mine.total is None else mine.total + scores[p]
        for repeat, halves in enumerate(mine.halves):
            side = random.Random(f"{job.seed} {repeat} {numbers[p]}").randrange(2)
            before = halves[side]
            halves[side] = scores[p] if before is None else before + scores[p]
    if source == IMAGE:
        concepts, numbers, scores, _, _ = _scored(live, method, job, items, source, shuffle=True)
        for p, concept in enumerate(concepts):
            if concept != NONE and len(seen[concept].shuffled) < MOST:
                seen[concept].shuffled.append(_top(scores[p], k, 2 * numbers[p] + 1))


def _scored(
    live: LiveModel, method: PairMethod, job: Job, items: Sequence[Item], source: str, *, shuffle: bool
) -> tuple[list[str], list[int], Tensor, list[set[int]], str]:
    """Each pair's concept (NONE where the method cannot score it), example number, (L * N,) scores and target tokens;
    and which of the method's parts they are, the first."""
    layers = parse_layers(job.layers) if job.layers else None
    grad = GRADIENT in needs(job)
    if not shuffle:
        with traced(live, items, source, layers=layers, tap=job.tap, grad=grad) as trace:
            found = method.scores(trace)
    else:
        with (
            shuffling(live.layout, _orders(live, items, job.seed)),
            traced(live, items, source, layers=layers, tap=job.tap, grad=grad) as trace,
        ):
            found = method.scores(trace)
    part, whole = next(iter(found.items()))
    scores = whole.transpose(0, 1).flatten(1).detach().cpu()
    concepts = [c if can else NONE for c, can in zip(trace.concepts, method.scored(trace), strict=True)]
    words: list[set[int]] = [set() for _ in trace.concepts]
    for pair, token in zip(trace.pair_of.tolist(), trace.tokens.tolist(), strict=True):
        words[pair].add(token)
    return concepts, [items[r].number for r in trace.pairs.tolist()], scores, words, part


def _orders(live: LiveModel, items: Sequence[Item], seed: int) -> Tensor:
    """(B, T): each row's image positions in an order of its own, the others in theirs."""
    roles = live.batch([item.prompt for item in items]).roles
    order = torch.arange(roles.shape[1], device=roles.device).repeat(len(items), 1)
    for row, item in enumerate(items):
        image = (roles[row] == IMAGE_ROLE).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + item.number)
        order[row, image] = image[torch.randperm(len(image), generator=generator).to(image.device)]
    return order


def _top(scores: Tensor, k: int, draw: int) -> np.ndarray:
    """The k best neurons as places in (layer, neuron) order, best first; equal ones in an order that `draw` draws, as
    many may be 0 and would overlap for no reason."""
    chance = np.random.default_rng(draw).permutation(len(scores))
    order: np.ndarray = np.lexsort((chance, -scores.nan_to_num(-torch.inf).numpy()))[:k]
    return order


def _rows(
    live: LiveModel, layers: Sequence[int], seen: Mapping[str, ConceptSums], ks: Sequence[int]
) -> Iterator[dict[str, Any]]:
    tokens = choices(live, WORDS)
    raised = torch.cat([tokens[layer, "top"] for layer in layers])  # (L * N, WORDS)
    for k, (concept, mine) in product(ks, sorted(seen.items())):
        labels = {"concept": concept, "first": f"top {k}", "second": None, "examples": mine.examples}
        says = torch.isin(raised, torch.tensor(sorted(mine.words))).any(-1).numpy()
        for (name, condition), values in _values(concept, mine, seen, k, says).items():
            if values:
                interval = _interval(name, condition, values, len(mine.tops))
                found = {"name": name, "condition": condition, "value": float(np.mean(values))}
                yield labels | found | {"low": interval.low, "high": interval.high}


def _interval(name: str, condition: str, values: Sequence[float], examples: int) -> Interval:
    """Over examples. Pairs of examples that share one are alike, so that the interval of their mean is that of a
    U-statistic (Hoeffding 1948): with each example's mean over its pairs, twice as far from the middle. Random halves
    of the same examples, and pairs with other concepts' examples, say nothing of other examples: none."""
    if (name, condition) == ("region_invariance", "before"):
        return of_values(values, (0.0, 1.0))
    if (name, condition) != ("image_invariance", "before"):
        return Interval(None, None, 0)
    sums, middle = np.zeros(examples), float(np.mean(values))
    for (a, b), value in zip(combinations(range(examples), 2), values, strict=True):
        sums[[a, b]] += value
    return of_values(middle + 2 * (sums / (examples - 1) - middle), (0.0, 1.0))


def _values(
    concept: str, mine: ConceptSums, seen: Mapping[str, ConceptSums], k: int, says: np.ndarray
) -> dict[tuple[str, str], list[float]]:
    """(property, condition) -> its values, whose mean it is; none where it cannot be told."""
    chance = [k / len(says)]
    best = _best(concept, mine, k)
    elsewhere = {c: o for c, o in seen.items() if c != concept}
    others = {n for c, o in elsewhere.items() for n in _best(c, o, k).tolist()}
    moved = [_share(a[:k], b[:k]) for a, b in zip(mine.tops, mine.shuffled, strict=bool(mine.shuffled))]
    same = [_share(a[:k], b[:k]) for a, b in combinations(mine.tops, 2)]
    halves = [_share(_top(a, k, 0), _top(b, k, 1)) for a, b in mine.halves if a is not None and b is not None]
    cross = [_share(a[:k], b[:k]) for o in elsewhere.values() for a, b in product(mine.tops, o.tops)]
    own = [float(np.mean([n not in others for n in best.tolist()]))] if elsewhere else []
    return {
        ("sensitivity", "before"): [float(says[best].mean())],
        ("sensitivity", "random"): [float(says.mean())],
        ("region_invariance", "before"): moved,
        ("region_invariance", "random"): chance if moved else [],
        ("image_invariance", "before"): same,
        ("image_invariance", "others"): cross,
        ("image_invariance", "random"): chance if same else [],
        ("sample_invariance", "before"): halves,
        ("sample_invariance", "random"): chance if halves else [],
        ("exclusivity", "before"): own,
        ("exclusivity", "random"): [(1 - chance[0]) ** len(elsewhere)] if own else [],
    }


def _best(name: str, concept: ConceptSums, k: int) -> np.ndarray:
    assert concept.total is not None
    return _top(concept.total, k, zlib.crc32(name.encode()))


def _share(a: np.ndarray, b: np.ndarray) -> float:
    return len(np.intersect1d(a, b)) / len(a)
