"""What a stored edit's provenance says: its concept, the words that it swaps, the problem that it solves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from atlas.edits.edit import Edit, Intervention
from atlas.errors import UsageError
from atlas.live.model import LiveModel
from atlas.neurons import Neuron
from atlas.query.provenance import Provenance, edits_in, maps_of
from atlas.questions.datasets import Datasets
from ingest.data.examples import BOTH, FIND, HELD_OUT, IMAGE, Dataset
from ingest.job import DataSpec, make_job, open_dataset
from ingest.run.resolve import complete
from ingest.solve.drawing import solving_drawing_again
from ingest.solve.solve import SolveSpec, build_problem, build_solver
from ingest.solve.swaps import Swap


def concept_of(edit: Edit, dataset: Dataset) -> str | None:
    """What an edit is about: its concept, else the dataset's concept whose word it swaps; None where the dataset has no
    such concept, so that all its questions are about others."""
    swap = swap_of(edit)
    if edit.concept in dataset.concepts or swap is None:
        return edit.concept if edit.concept in dataset.concepts else None
    matching = [c.name for c in dataset.concepts.values() if swap.said.lower() in c.forms]
    return matching[0] if len(matching) == 1 else None


def solving_again(edit: Edit, live: LiveModel) -> Callable[[Sequence[Neuron]], Intervention]:
    """A function that solves a solved edit's problem again on other neurons."""
    record = edit.provenance["solver"]
    if record.get("target") == IMAGE:
        return solving_drawing_again(edit, live)
    spec = SolveSpec(record["name"], Swap(**record["swap"]), record["params"], record["goal"], record["keep"])
    solver, _ = build_solver(spec)
    if edit.provenance.get("asked"):
        from ingest.solve.solve import PromptDataset

        dataset: Dataset = PromptDataset(**edit.provenance["asked"])
    else:
        dataset = open_dataset(DataSpec(dataset=edit.provenance["dataset"], options=edit.provenance["options"]))
    job = complete(make_job({**edit.provenance["job"], "split": FIND}), dataset, live.takes)
    problem = build_problem(live, dataset, job, spec, record.get("batch_size", 16))
    return lambda neurons: solver.solve(replace(problem, neurons=list(neurons))).intervention


def own_examples(edit: Edit) -> dict[str, Any]:
    """The job fields that a solved edit implies: its dataset's options, its tasks and, where nothing should change, the
    default tasks of every source."""
    job_record = edit.provenance.get("job", {})
    if edit.solver is None:
        return {}
    options = edit.provenance["options"]
    prompt_record = edit.provenance.get("asked")
    if not job_record.get("tasks") and not prompt_record:
        return {"options": options}
    dataset = open_dataset(DataSpec(dataset=edit.provenance["dataset"], options=options))
    default_tasks = [task for tasks in dataset.tasks.values() for task in tasks]
    # The answer to a single question may occur in any answer that the dataset judges as a whole: its captions.
    own_tasks = list(dataset.metrics) if prompt_record else job_record["tasks"]
    return {"tasks": list(dict.fromkeys([*own_tasks, *default_tasks])), "options": options}


def swap_of(edit: Edit) -> Swap | None:
    """The words that an edit swaps; None where it does not swap words, or its parts swap different ones."""
    swaps = {Swap(**record["swap"]) for record in solvers_of(edit.provenance) if record.get("target") != IMAGE}
    return swaps.pop() if len(swaps) == 1 else None


def solvers_of(provenance: Provenance) -> list[Mapping[str, Any]]:
    """The solver records of an edit, or of the edits that it was composed of."""
    return [edit["solver"] for edit in edits_in(provenance) if "solver" in edit]


def unseen_split(edit: Edit, dataset: str | None) -> str:
    """The split of a dataset that the edit was not made from: of another dataset than its own, all."""
    name = (dataset or "").partition(":")[0]
    own = {known.partition(":")[0] for known in _datasets_of(edit)}
    return HELD_OUT if not name or name in own else BOTH


def own_dataset(atlas: Path, edit: Edit) -> str:
    """The dataset that an edit's neurons were found on, with the path that the atlas last knew of it.

    Raises:
        UsageError: they are of several.
    """
    solved_on = solved_datasets(edit.provenance)
    names = {str(m["dataset"]) for m in maps_of(edit.provenance)} | {known.partition(":")[0] for known in solved_on}
    whole = {name: name for name in names} | {known.partition(":")[0]: known for known in solved_on}
    if len(names) > 1:
        raise UsageError(
            f"the edit's neurons come from the datasets {' and '.join(sorted(names))}; choose one with [[dataset]]"
        )
    own = next(iter(whole.values()), "scenes")
    paths = [row["path"] for row in Datasets().ask(atlas).to_pylist() if row["name"] == own and row["path"]]
    return f"{own}:{paths[-1]}" if paths else own


def solved_datasets(provenance: Provenance) -> set[str]:
    """The datasets that an edit, or what it was composed of, was solved on."""
    return {str(edit["dataset"]) for edit in edits_in(provenance) if "solver" in edit}


def _datasets_of(edit: Edit) -> set[str]:
    """The datasets that an edit was made from."""
    return {str(m["dataset"]) for m in maps_of(edit.provenance)} | solved_datasets(edit.provenance)
