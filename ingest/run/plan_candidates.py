"""What a job with candidates would cost: the run that finds them, and the expensive one on at most so many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from atlas.query.amount import size
from atlas.query.selection_rules import Rule
from ingest.attribution.estimators import PairMethod
from ingest.job import Execution, Job
from ingest.run.candidates import RANDOM, SCORED, without_scored
from ingest.run.plan import Shape, plan, sketch_shape
from ingest.run.resolve import methods
from ingest.run.samples import spread
from ingest.run.session import prepare_job

ALIKE = ("examples", "words")
"""Rows that both runs have alike."""


def plan_with_candidates(job: Job, rules: Mapping[str, Rule], execution: Execution) -> list[dict[str, Any]]:
    """The rows of `plan` for the run of the other methods, how many candidates there are at most, and the rows of the
    run that scores these, which begin with its method's name.

    rules: of `ingest.run.candidates.read_candidates`.

    Raises:
        UsageError, Unsupported: as `plan`.
    """
    prepared = prepare_job(job, execution)
    shape = sketch_shape(prepared.job, execution)
    targets = frozenset(example.target for example in prepared.examples)
    count, reckoned = most_candidates(prepared.job, rules, shape.neurons, targets)
    candidates = ""
    if count < shape.neurons:
        candidates = ",".join(_name(shape, place) for place in spread(range(shape.neurons), count))
    scored = replace(job, methods={SCORED: {**job.methods[SCORED], "neurons": candidates}})
    return [
        *plan(without_scored(job), execution),
        {"what": "candidates", "how_much": f"at most {count:,}", "reckoned_from": reckoned},
        *(
            {**row, "what": f"{SCORED}: {row['what']}"}
            for row in plan(scored, execution, candidates=count)
            if row["what"] not in ALIKE
        ),
    ]


def most_candidates(job: Job, rules: Mapping[str, Rule], neurons: int, targets: frozenset[str]) -> tuple[int, str]:
    """How many neurons the rules choose at most, of a complete job's maps, and how that is reckoned: maps may choose
    the same ones. targets: what the job's examples are answered in."""
    built, total, reckoned = methods(job), 0, []
    for name, rule in rules.items():
        method = built[name]
        reductions = method.reductions if isinstance(method, PairMethod) else job.reduce
        sources = [source for source in job.sources if method.sources is None or source in method.sources]
        maps = len(sources) * len(job.concepts) * len(reductions) * len(method.targets & targets)
        maps = 1 if name == RANDOM else maps
        of_each = min(neurons, size(rule.amount / 100, neurons) if rule.name == "share" else int(rule.amount))
        total += maps * of_each
        reckoned.append(f"{of_each:,} of each of {maps:,} maps of {name}" if maps > 1 else f"{of_each:,} of {name}")
    return min(total, neurons), "; ".join(reckoned)


def _name(shape: Shape, place: int) -> str:
    """The name of a scored neuron, by its place among all of them."""
    row, index = divmod(place, shape.layout.width)
    return f"{shape.scored[row]}/{index}"
