"""The contract of a solver (`ingest.solve.problem.Solver`), on a word swap of tiny random models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from atlas.live.model import LiveModel
from atlas.testing.contract import Entry, check_build, entry_of, failing, is_planted, tiny, untouched
from atlas.testing.swaps import items_of, problem_of, target_probabilities
from ingest.solve.problem import Problem, Solution, Solver
from ingest.solve.swaps import Swap

ANSWERS = ["a dog", "a red dog barks", "dog and a dog"]


def check_solver(
    module_or_build: ModuleType | Callable[..., Solver],
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    raises_words: bool = True,
) -> None:
    """Check a solver, given as its module or its `build`, with its default parameters or the given options.

    The same problem gives the same solution; it changes neurons that the model has, by finite deltas that are not all
    zero; its report is plain values. The wanted words are likelier with it. The model itself is unchanged, after a
    solution and after a failure.

    raises_words: False for a solver with another aim, such as to move the model's representation.

    Raises:
        ContractError: the solver breaks its contract; the message names the solver and the fault.
    """
    entry = entry_of(module_or_build, name)
    check_build(entry)
    for live in (tiny("llava"), tiny("opt")):
        problem = dog_to_cat(live)
        with untouched(entry, live):
            first, second = (entry.build(**(options or {})).solve(problem) for _ in range(2))
        check_solution(entry, live, first)
        check_same(entry, first, second)
        check_words(entry, problem, first, raises_words=raises_words)
        with untouched(entry, live), failing(live):
            try:
                entry.build(**(options or {})).solve(problem)
            except Exception as error:
                if not is_planted(error):
                    raise
            else:
                entry.require(False, "it gives a solution for a model that fails in every pass")


def dog_to_cat(live: LiveModel) -> Problem:
    """Three answers that are to say "cat" instead of "dog", and examples of answers with "cat"."""
    goals = items_of(live, ["a cat", "red cat"], pictures=live.name == "random-llava")
    return problem_of(live, ANSWERS, Swap("dog", "cat"), goals=goals, batch_size=2)


def check_solution(entry: Entry, live: LiveModel, solution: Solution) -> None:
    """The neurons are the model's, the deltas finite and not all zero, the report plain values."""
    intervention = solution.intervention
    entry.require(intervention.changes, "its solution changes no neuron")
    layers, width = len(live.layout.layers), live.layout.width
    for neuron in intervention.neurons:
        known = neuron.component == "language" and neuron.layer < layers and neuron.index < width
        entry.require(known, f"its solution changes {neuron}, which the model does not have")
    deltas = intervention.deltas
    if deltas is not None:
        rows = [change.write for change in intervention.changes if change.write is not None]
        shape = (len(deltas), live.layout.d_model)
        entry.require(np.shape(deltas) == shape, f"its deltas have shape {np.shape(deltas)}, not {shape}")
        entry.require(all(0 <= row < len(deltas) for row in rows), "a change names a row that the deltas do not have")
        entry.require(np.isfinite(deltas).all(), "its deltas are NaN or infinite")
        entry.require(np.abs(deltas).max() > 0, "its deltas are all zero")
    try:
        json.dumps(dict(solution.report), allow_nan=False)
    except (TypeError, ValueError) as error:
        entry.require(False, f"its report cannot be stored: {error}")


def check_same(entry: Entry, first: Solution, second: Solution) -> None:
    """The same problem gives the same solution."""
    alike = first.intervention == second.intervention and dict(first.report) == dict(second.report)
    first_deltas, second_deltas = (
        np.asarray([] if d is None else d) for d in (first.intervention.deltas, second.intervention.deltas)
    )
    entry.require(
        alike and np.array_equal(first_deltas, second_deltas), "the same problem gives another solution the second time"
    )


def check_words(entry: Entry, problem: Problem, solution: Solution, *, raises_words: bool) -> None:
    """The solution changes the model's answers and, where that is its aim, makes the wanted words likelier."""
    live = problem.live
    before = [p for case in problem.cases for p in target_probabilities(live, case.item())]
    after = [p for case in problem.cases for p in target_probabilities(live, case.item(), solution.intervention)]
    entry.require(not np.allclose(before, after, rtol=1e-6, atol=0), "its solution does not change the model's answers")
    if raises_words:
        means = f"{np.mean(before):.4g} before and {np.mean(after):.4g} with it"
        entry.require(np.mean(after) > np.mean(before), f"the wanted words' probability is {means}")
