"""From a rehearsal on one, two and perhaps three layers to the whole job: seconds by phase, and bytes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atlas.errors import AtlasError
from ingest.attribution.estimators import PairMethod
from ingest.job import Job
from ingest.run.map_step import EXEMPLARS
from ingest.run.phases import ANSWERING, ENCODING, LOADING, PASSING, WRITING
from ingest.run.resolve import methods
from ingest.run.swapped_answers import answer_methods, name_of_answers

Sides = Sequence[Mapping[str, Any]]
"""What one source cost on one layer, on two, and perhaps on three (`ingest.run.rehearse`)."""


@dataclass(frozen=True, slots=True)
class Work:
    """How much a job has to do. examples, own, swapped: by source, how many there are, how many of them the model
    answers, and how many answers are scored again after another prompt. parameters, layers, width: of the model.
    scored: the layers whose neurons the job scores. batch_size: of a run. portions: whose sums are stored one by one.
    decoded: whether the model's neurons have been decoded before.
    """

    examples: Mapping[str, int]
    parameters: int
    layers: int
    width: int
    scored: Sequence[int]
    batch_size: int
    own: Mapping[str, int] = field(default_factory=dict)
    swapped: Mapping[str, int] = field(default_factory=dict)
    portions: int = 1
    decoded: bool = False

    @property
    def share(self) -> float:
        """Of the layers, the share that is scored."""
        return len(self.scored) / self.layers


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds by phase ("encoding", "answers", "passes", a method, ...).

    memory: the bytes in use at most while examples are scored, without the sums. weights: those of the model and the
    program. sums: those that all methods and the exemplars add up to. uncounted: source -> why nothing of it could be
    rehearsed, so that nothing of it is counted.
    """

    seconds: Mapping[str, float]
    memory: float
    weights: float = 0.0
    sums: float = 0.0
    uncounted: Mapping[str, str] = field(default_factory=dict)


def linear(one: float, two: float, layers: int) -> float:
    """What `layers` layers cost, where one costs `one` and two cost `two`; every further one costs as much more."""
    return one + max(0.0, two - one) * (layers - 1)


def restarting(costs: Sequence[float], layers: int, scored: Mapping[int, float]) -> float:
    """The same of a method that runs the model again from every scored layer on: a layer costs something of its own,
    something for the last layer, where that is behind it, and something for every other one between.

    costs: of one layer, of two, and of three; of two alone, the last layer costs what others do. scored: layer -> what
    its cost is multiplied by."""
    own, two, *three = costs
    last = max(0.0, two - 2 * own)
    between = max(last, three[0] - 3 * own - 2 * last) if three else last

    def behind(count: int) -> float:
        return last + between * (count - 1) if count else 0.0

    return sum(times * (own + behind(layers - 1 - layer)) for layer, times in scored.items())


def whole_cost(rehearsed: Sequence[Mapping[str, Any]], job: Job, work: Work) -> Cost:
    """The cost of all examples on the whole model.

    rehearsed: of one layer, of two, and perhaps of three, on the same examples (`ingest.run.rehearse`). The model's own
    answers are taken to be as long as the job allows.

    Raises:
        AtlasError: they are not of the same examples, so that their difference is not a layer's cost.
    """
    seconds: dict[str, float] = defaultdict(float)
    seconds[WRITING] = 0.0 if work.decoded else _decodings(rehearsed, work)
    seconds[LOADING] = _loading(rehearsed[0]["loading"], rehearsed[1]["loading"], work)
    memory = weights = sums = 0.0
    uncounted: dict[str, str] = {}
    for source in work.examples:
        sides = [of_depth["sources"][source] for of_depth in rehearsed]
        if any(sides[0].get(key) != side.get(key) for key in ("numbers", "usable", "passed") for side in sides):
            raise AtlasError(f"the depths were rehearsed on different {source} examples")
        if not sides[0]["usable"]:
            uncounted[source] = sides[0]["why"]
            continue
        for name, amount in _seconds(source, sides, job, work).items():
            seconds[name] += amount
        in_use, of_weights = _memory(source, sides, work)
        memory, weights = max(memory, in_use), max(weights, of_weights)
        of_source = _sums(source, sides, job, work)
        sums += of_source
        seconds[WRITING] += _writing(source, sides, job, work, of_source)
    return Cost(dict(seconds), memory, weights, sums, uncounted)


def _loading(one: Mapping[str, float], two: Mapping[str, float], work: Work) -> float:
    """Seconds of loading the model, without reading its weights. The unembedding may be most of a shallow model, so
    that what a layer adds is lost in the noise: every parameter takes as long."""
    return min(one["begin"], two["begin"]) + two["weights"] / two["parameters"] * work.parameters


def _seconds(source: str, sides: Sides, job: Job, work: Work) -> dict[str, float]:
    """Seconds of one source by phase."""
    one, two = sides[:2]
    examples, swapped = work.examples[source], work.swapped.get(source, 0)
    encode = min(one["encode"], two["encode"]) / len(one["numbers"])  # the first one also loads what it needs
    passes = _passes(one, two, work.layers)
    each = one["usable"] / len(one["numbers"]) / one["passed"]  # of an example, the share of those that passed
    seconds = {ENCODING: (examples + swapped) * encode, PASSING: (examples + swapped) * each * passes}
    built, answered = methods(job), {name_of_answers(name) for name in methods(job)} & answer_methods(job).keys()
    for name in one["methods"]:
        of_all = _of_method(built.get(name), [side["methods"][name] for side in sides], work)
        seconds[name] = examples * each * of_all
        if swapped and name_of_answers(name) in answered:
            seconds[name_of_answers(name)] = swapped * each * of_all
    if "own" in one:
        of_batch = linear(one["prefill"], two["prefill"], work.layers)
        of_batch += job.max_new_tokens * linear(one["token"], two["token"], work.layers)
        seconds[ANSWERING] = work.own.get(source, 0) * of_batch / one["own"]
    return seconds


def _passes(one: Mapping[str, Any], two: Mapping[str, Any], layers: int) -> float:
    """Seconds of the passes. What a layer adds is measured in the pass of two: beside the layers of a medium's own
    encoder, the difference of two passes would be noise."""
    outside = min(side["pass"] - sum(side["layers"]) for side in (one, two))
    first, further = two["layers"]
    return float(outside + first + further * (layers - 1))


def _of_method(method: Any, costs: Sequence[float], work: Work) -> float:
    """Seconds of a method on the rehearsed examples, in all scored layers. method: None for the exemplars. costs: by
    depth."""
    times = dict.fromkeys(work.scored, 1.0)
    if hasattr(method, "rehearse"):
        times = method.rehearse(work.width, work.scored)
    if getattr(method, "restarts", False):
        return restarting(costs, work.layers, times)
    return linear(costs[0], costs[1], work.layers) * sum(times.values()) / work.layers


def _writing(source: str, sides: Sides, job: Job, work: Work, sums: float) -> float:
    """Seconds of writing a source's portions, maps and exemplars. sums: their bytes."""
    one, two = (side["writing"] for side in sides[:2])
    portion, scores, exemplars = (linear(one[key], two[key], work.layers) for key in ("portion", "scores", "exemplars"))
    of_all = linear(sum(sides[0]["state"].values()), sum(sides[1]["state"].values()), work.layers)
    maps = len(job.concepts) / sides[0]["concepts"] * (1 + job.swap_answers) * work.share
    kept = _kept(source, sides, job, work) * work.share
    return float(work.portions * portion * sums / max(1, of_all) + scores * maps + exemplars * kept)


def _decodings(rehearsed: Sequence[Mapping[str, Any]], work: Work) -> float:
    """Seconds of writing all neurons' tokens, which the first rehearsal tells."""
    decodings = rehearsed[0]["decodings"]
    return float(decodings["first"] + decodings["further"] * (work.layers - 1))


def _kept(source: str, sides: Sides, job: Job, work: Work) -> float:
    """How many times as many exemplars a neuron has of all examples as of those that passed."""
    passed: int = sides[0]["passed"]
    return min(job.exemplars, work.examples[source]) / max(1, min(job.exemplars, passed))


def _memory(source: str, sides: Sides, work: Work) -> tuple[float, float]:
    """Bytes in use at most while a batch is scored, and before it."""
    usable = math.ceil(work.examples[source] * sides[0]["usable"] / len(sides[0]["numbers"]))
    batch = min(work.batch_size, usable)
    one, two = (_at_batch(side, batch) for side in sides[:2])
    in_pass, held, working, before = (
        linear(of_one, of_two, work.layers) for of_one, of_two in zip(one, two, strict=True)
    )
    return max(in_pass, held + working), before


def _at_batch(side: Mapping[str, Any], batch: int) -> tuple[float, float, float, float]:
    """Bytes at most in the pass, held after it, what methods use besides, and before the pass, of a batch of so many of
    the longest examples: what one takes is known from those that passed, for the methods from one of them and all."""
    memory, together = side["memory"], side["together"]
    before, working = side["before"], memory["working"]
    of_one = working if together == 1 else max(0, working - side["single"]["working"]) / (together - 1)
    more = max(together, batch) * side["longer"] - together
    in_pass, held = (memory[key] + more * max(0, memory[key] - before) / together for key in ("pass", "held"))
    return in_pass, held, working + more * of_one, before


def _sums(source: str, sides: Sides, job: Job, work: Work) -> float:
    """Bytes of what the methods and the exemplars add up, for all concepts and examples of a source."""
    one, two = sides[:2]
    concepts = (len(job.concepts) + bool(job.negatives)) / one["concepts"]
    kept = _kept(source, sides, job, work)
    of_answers, total = answer_methods(job), 0.0
    for name, method in {**methods(job), EXEMPLARS: None}.items():
        of_all = linear(one["state"][name], two["state"][name], work.layers) * work.share
        of_all *= concepts if isinstance(method, PairMethod) else kept if method is None else 1.0
        total += of_all * (1 + (name_of_answers(name) in of_answers))
    return total
