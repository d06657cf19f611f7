"""Which neurons an expensive method is to score: the best of cheap ones, found by a run of its own before it.

Exact ablation runs the model once for every neuron and example: hours for a model of 46,080 neurons. Of the neurons
that no other method ranks high it would mostly tell that they do nothing. `--candidates contribution:2%,random:1%`
takes the union, over the job's concepts and reductions and for all sources alike, of the best 2 % by contribution, and
1 % of all neurons, drawn once; without these, the reference would only know neurons that the other method found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from atlas.errors import UsageError
from atlas.query.amount import rule_of
from atlas.query.compare_maps import chosen_neurons
from atlas.query.selection_rules import Rule
from atlas.store.database import open_readonly
from ingest.job import Job

SCORED = "ablation"
"""The method that is expensive enough to need candidates."""

RANDOM = "random"


def read_candidates(given: Sequence[str], job: Job) -> dict[str, Rule]:
    """Method -> the rule that chooses its best neurons, from texts such as `contribution:2%`.

    Raises:
        UsageError: not METHOD:AMOUNT, a method that is not of the job, or a job without the method to be scored.
    """
    rules: dict[str, Rule] = {}
    for text in given:
        method, colon, amount = text.partition(":")
        if not colon or not method:
            raise UsageError(f"[[candidates]]: '{text}' is not METHOD:AMOUNT; write contribution:2%, or several")
        rules[method] = rule_of(amount, "candidates")
    if SCORED not in job.methods:
        raise UsageError(f"[[candidates]] are the neurons that {SCORED} scores; add it to [[methods]]")
    if job.methods[SCORED].get("neurons"):
        raise UsageError(f"[[candidates]] and {SCORED}.neurons both choose its neurons; leave one out")
    for method in rules:
        if method == SCORED or method not in job.methods:
            raise UsageError(f"[[candidates]]: {method} is not another of this job's [[methods]]; add it to them")
    return rules


def without_scored(job: Job) -> Job:
    """The job that finds the candidates."""
    return replace(job, methods={name: values for name, values in job.methods.items() if name != SCORED})


def with_candidates(path: Path, job: Job, run_id: str, rules: dict[str, Rule]) -> tuple[Job, int]:
    """The job of the expensive method alone, on the candidates that the run's maps give, and how many these are.

    Raises:
        UsageError: the run stored no map of a method.
    """
    chosen: set[tuple[int, int]] = set()
    with open_readonly(path) as connection:
        for method, rule in rules.items():
            maps = connection.execute(
                "SELECT map_id FROM maps WHERE run_id = ? AND method = ? AND concept_id IS NOT NULL ORDER BY map_id",
                [run_id, method],
            ).fetchall()
            if not maps:
                raise UsageError(f"[[candidates]]: run {run_id[:8]} has no map of {method}; choose another method")
            if method == RANDOM:  # every map of it is another draw of all neurons
                maps = maps[:1]
            rows = chosen_neurons([map_id for (map_id,) in maps], rule).run(connection)
            chosen |= set(zip(rows["layer"].to_pylist(), rows["neuron"].to_pylist(), strict=True))
    neurons = ",".join(f"{layer}/{index}" for layer, index in sorted(chosen))
    return replace(job, methods={SCORED: {**job.methods[SCORED], "neurons": neurons}}), len(chosen)
