"""From a rehearsal on one and two layers to the whole job: seconds by phase, and bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingest.job import Job
from ingest.run.phases import ANSWERING, ENCODING, PASSING

RESTARTING = ("ablation", "integrated_gradients", "knowledge_neurons")
"""Methods that run the layers behind each layer again: what they cost grows with the square of the layers."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds by phase ("encoding", "answers", "passes", a method, ...), and the bytes in use at most."""

    seconds: Mapping[str, float]
    memory: float


def linear(one: float, two: float, layers: int) -> float:
    """What `layers` layers cost, where one costs `one` and two cost `two`; every further one costs as much more."""
    return one + max(0.0, two - one) * (layers - 1)


def restarting(one: float, two: float, layers: int, scored: Sequence[int]) -> float:
    """The same of a method that runs the model again from every scored layer on: a layer costs something of its own,
    and something for every layer behind it."""
    own = one
    behind = max(0.0, two - 2 * one)
    return sum(own + behind * (layers - 1 - layer) for layer in scored)


def whole_cost(
    rehearsed: Sequence[Mapping[str, Any]],
    job: Job,
    counts: Mapping[str, int],
    layers: int,
    scored: Sequence[int],
    *,
    own_answers: Mapping[str, int],
) -> Cost:
    """The cost of all examples on the whole model.

    rehearsed: of one layer, and of two (`ingest.run.rehearse`). counts: examples by source. layers: of the model.
    scored: those whose neurons the job scores. own_answers: of how many examples the model gives the answer; these are
    taken to be as long as the job allows.
    """
    seconds: dict[str, float] = defaultdict(float)
    first, second = rehearsed
    memory = 0.0
    for source, count in counts.items():
        one, two = first["sources"][source], second["sources"][source]
        scale = count / one["examples"]
        seconds[ENCODING] += scale * min(one["encode"], two["encode"])  # the first one also loads what it needs
        if "pass" not in one:  # nothing of the sample could be used
            continue
        seconds[PASSING] += scale * linear(one["pass"], two["pass"], layers)
        seconds["swapped answers"] += scale * linear(one["swapped"], two["swapped"], layers)
        for name, of_one in one["methods"].items():
            factor, of_two = one["factors"].get(name, 1.0), two["methods"][name]
            if name in RESTARTING:
                of_all = restarting(of_one, of_two, layers, scored)
            else:
                of_all = linear(of_one, of_two, layers) * (len(scored) / layers if name in job.methods else 1.0)
            seconds[name] += scale * factor * of_all
        if "token" in one and own_answers.get(source):
            of_batch = linear(one["prefill"], two["prefill"], layers)
            of_batch += job.max_new_tokens * linear(one["token"], two["token"], layers)
            seconds[ANSWERING] += own_answers[source] / one["examples"] * of_batch
        in_use = linear(one["held"], two["held"], layers) + linear(one["working"], two["working"], layers)
        memory = max(memory, in_use)
    return Cost(dict(seconds), memory)
