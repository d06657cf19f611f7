"""What a stored edit tells of itself: its concept, the words that it swaps, the problem that it solves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from atlas.edits.edit import Edit, Intervention
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from ingest.data.examples import FIND, IMAGE, Dataset
from ingest.job import DataSpec, make_job, open_dataset
from ingest.run.resolve import complete
from ingest.solve.drawing import solving_drawing_again
from ingest.solve.solve import SolveSpec, build_problem, build_solver
from ingest.solve.swaps import Swap


def concept_of(edit: Edit, dataset: Dataset) -> str | None:
    """What an edit is about: its concept, else the one of the dataset whose word it swaps; None where the dataset has
    nothing of it, so that all of its questions are about others."""
    swap = swap_of(edit)
    if edit.concept in dataset.concepts or swap is None:
        return edit.concept if edit.concept in dataset.concepts else None
    named = [c.name for c in dataset.concepts.values() if swap.said.lower() in c.forms]
    return named[0] if len(named) == 1 else None


def solving_again(edit: Edit, live: LiveModel) -> Callable[[Sequence[Neuron]], Intervention]:
    """Solve a solved edit's problem once more on other neurons."""
    said = edit.provenance["solver"]
    if said.get("target") == IMAGE:
        return solving_drawing_again(edit, live)
    wanted = SolveSpec(said["name"], Swap(**said["swap"]), said["params"], said["goal"], said["keep"])
    solver, _ = build_solver(wanted)
    if edit.provenance.get("asked"):
        from ingest.solve.solve import PromptDataset

        dataset: Dataset = PromptDataset(**edit.provenance["asked"])
    else:
        dataset = open_dataset(DataSpec(dataset=edit.provenance["dataset"], options=edit.provenance["options"]))
    job = complete(make_job({**edit.provenance["job"], "split": FIND}), dataset, live.takes)
    problem = build_problem(live, dataset, job, wanted, said.get("batch_size", 16))
    return lambda neurons: solver.solve(replace(problem, neurons=list(neurons))).intervention


def own_examples(edit: Edit) -> dict[str, Any]:
    """What of a job a solved edit asks for by default: its dataset's options, its tasks, and beside them the usual ones
    of every source, where nothing is to change."""
    told = edit.provenance.get("job", {})
    if edit.solver is None:
        return {}
    options = edit.provenance["options"]
    asked = edit.provenance.get("asked")
    if not told.get("tasks") and not asked:
        return {"options": options}
    dataset = open_dataset(DataSpec(dataset=edit.provenance["dataset"], options=options))
    usual = [task for tasks in dataset.tasks.values() for task in tasks]
    # What was one question's answer may be said in any that the dataset judges as a whole: its captions.
    own = list(dataset.metrics) if asked else told["tasks"]
    return {"tasks": list(dict.fromkeys([*own, *usual])), "options": options}


def swap_of(edit: Edit) -> Swap | None:
    """The words that an edit swaps, where it does."""
    swaps = {Swap(**said["swap"]) for said in solvers_of(edit.provenance) if said.get("target") != IMAGE}
    return swaps.pop() if len(swaps) == 1 else None


def solvers_of(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was solved, of an edit or of the parts that it was composed of."""
    mine = [provenance["solver"]] if "solver" in provenance else []
    return mine + [said for part in provenance.get("parts", ()) for said in solvers_of(part)]
