"""Word swaps on the embedded model: every solver, as many random neurons, and cached steps against whole ones.

For each pair the solver sees pictures of the find split; success and what else changed are measured on held-out
pictures, prompts in other words, questions about other things and questions in text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from _timing import report

import ingest.solvers
from atlas import registry
from atlas.edits.edit import Intervention
from atlas.live.hooks import tracing, writing
from atlas.live.model import LiveModel
from atlas.stats.random_neurons import matched_random
from ingest.data.examples import HELD_OUT, IMAGE
from ingest.evaluate.edit import evaluate_with
from ingest.evaluate.word_swap import SwapEvaluator
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run import prepare
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.prepare import completed
from ingest.solve.problem import CachedBatch, Problem, Weights, objective
from ingest.solve.solve import SolveSpec, build_problem
from ingest.solve.swaps import Swap

PAIRS = (
    ("dog", "cat"), ("cat", "horse"), ("horse", "dog"), ("bird", "fish"), ("fish", "bird"), ("car", "bus"),
    ("bus", "rocket"), ("tree", "flower"), ("house", "tree"), ("cup", "ball"), ("ball", "clock"), ("clock", "guitar"),
)  # fmt: skip
SEEDS = 3


def held_out(live: LiveModel, said: str, swap: Swap) -> SwapEvaluator:
    """Captions of pictures of the thing; captions and questions, about pictures and in text, of all things."""
    job = make_job({"split": HELD_OUT, "per_concept": 1, "tasks": ["caption", "does", "lives"]})
    dataset = open_dataset(job)
    job = completed(job, dataset, Execution())
    mine = replace(job, concepts=(said,), sources=(IMAGE,), tasks=("caption",), per_concept=16)
    examples = {e.id: e for some in (mine, job) for e in prepare.collect(some, dataset)}
    return SwapEvaluator(ExampleEncoder(live, dataset, job), list(examples.values()), swap, 64, said)


def measured(evaluator: SwapEvaluator, interventions: Sequence[Intervention]) -> tuple[float, float, float]:
    """success, whole answers with only the word replaced, other answers unchanged: means over the interventions."""
    found = [evaluate_with(evaluator, i).values for i in interventions]
    names = ("success", "whole_success", "whole_unchanged")
    return tuple(float(np.mean([np.nanmean(values[n]) for values in found])) for n in names)  # type: ignore[return-value]


def solved(name: str, problem: Problem) -> tuple[Intervention, float]:
    build = registry.load(ingest.solvers, name).build
    started = time.perf_counter()
    found = build().solve(problem)
    return found.intervention, time.perf_counter() - started


def pairs(live: LiveModel) -> None:
    job = make_job({"tasks": ["caption"], "sources": [IMAGE]})
    dataset = open_dataset(job)
    table: dict[str, list[tuple[float, ...]]] = {}
    for said, wanted in PAIRS:
        swap = Swap(said, wanted)
        mine: Job = completed(replace(job, concepts=(said,)), dataset, Execution())
        problem = build_problem(live, dataset, mine, SolveSpec("word_swap", swap), 16)
        evaluator = held_out(live, said, swap)
        evaluator.evaluate()
        for name in ("word_swap", "rank_one", "fine_tune"):
            found, seconds = solved(name, problem)
            row: tuple[float, ...] = (*measured(evaluator, [found]), len(found.neurons), seconds)
            table.setdefault(name, []).append(row)
            if name == "word_swap":
                random = [matched_random(found.neurons, live.layout.width, seed) for seed in range(SEEDS)]
                again = [solved(name, replace(problem, neurons=some)) for some in random]
                row = (*measured(evaluator, [i for i, _ in again]), row[3], float(np.mean([s for _, s in again])))
                table.setdefault("word_swap on random neurons", []).append(row)
                row = table[name][-1]
                seen = f"{len(problem.cases)} seen, {len(evaluator.cases)} held out"
                print(f"{said:>6} -> {wanted:<7} {_percent(row[:3])}   {seen}, {seconds:.1f} s", flush=True)
    print(f"\n{len(PAIRS)} pairs, means (worst): success, whole answer, others unchanged; neurons; seconds")
    for name, rows in table.items():
        columns = list(zip(*rows, strict=True))
        shares = ", ".join(f"{np.mean(c):.1%} ({min(c):.1%})" for c in columns[:3])
        print(f"{name:28} {shares}; {np.mean(columns[3]):.0f}; {np.mean(columns[4]):.1f}")


def _percent(values: Sequence[float]) -> str:
    return " ".join(f"{v:6.1%}" for v in values)


def steps(live: LiveModel) -> None:
    """A step restarted at the lowest edited layer against one that runs the whole model."""
    job = make_job({"tasks": ["caption"], "sources": [IMAGE], "concepts": ["dog"]})
    dataset = open_dataset(job)
    problem = build_problem(
        live, dataset, completed(job, dataset, Execution()), SolveSpec("word_swap", Swap("dog", "cat"), keep=0), 16
    )
    last = len(live.layout.layers) - 1
    piece = CachedBatch(live, [case.item() for case in problem.cases], last, change=True)
    deltas = torch.zeros(5, live.layout.d_model, requires_grad=True)
    writes = {last: (torch.arange(5), deltas)}

    def cached() -> torch.Tensor:
        loss = objective(piece, writes, Weights(), suppress=False)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def whole() -> torch.Tensor:
        everywhere = {last: [(*writes[last], lambda values: None)]}
        with writing(live.layout, everywhere), tracing(live.layout, layers=[]) as capture:
            live.forward(piece.batch)
        final = capture.norm_out
        assert final is not None
        loss = piece.worst(-piece.word_log_probs(final)) + piece.drift(final)
        loss = loss + 10 * piece.worst(piece.unlikely(final, behind=1))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    each: dict[str, float] = {}
    losses: dict[str, float] = {}
    for name, step in (("cached", cached), ("whole", whole)):
        losses[name] = float(step())
        times = []
        for _ in range(9):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        each[name] = float(np.median(times))
    assert abs(losses["cached"] - losses["whole"]) < 1e-3 * abs(losses["whole"]), losses
    detail = f"{1000 * each['cached']:.1f} ms against {1000 * each['whole']:.1f} ms, an edit of the last layer"
    report("whole step / step from the cached layer", each["whole"] / each["cached"], "> 1", detail)


def main() -> None:
    live = prepare.load_model(Job(), Execution())
    steps(live)
    pairs(live)


if __name__ == "__main__":
    main()
