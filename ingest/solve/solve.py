"""Computed edits: from a job's examples, or from one prompt with its pictures, to a stored edit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ingest.solvers
from atlas import registry
from atlas.edits import library as edit_library
from atlas.edits.edit import Edit
from atlas.errors import UsageError, unknown
from atlas.live.model import LiveModel
from atlas.query.neuron_set import NeuronSet
from atlas.query.provenance import Provenance
from atlas.store.names import check_name
from ingest.attribution.item import Item
from ingest.data.examples import FIND, IMAGE, TEXT, Concept, Dataset, Example, Mention
from ingest.data.targets import spans
from ingest.job import Execution, Job, open_dataset
from ingest.run import prepare
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.generate import open_picture
from ingest.run.map_step import Progress
from ingest.run.record import family_plugin, model_row
from ingest.run.resolve import complete, plugins_of, tasks_by_source
from ingest.solve.problem import Problem, Solution, Solver
from ingest.solve.swaps import Swap, SwapCase, make_cases, spoken_cases

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


@dataclass(frozen=True)
class SolveSpec:
    """What to compute. solver, params: a file of `ingest/solvers` and its parameters. swap: the words. goal: the
    concept to move to, for solvers of representations. keep: how many examples of other concepts must not change."""

    solver: str
    swap: Swap
    params: Mapping[str, Any] = field(default_factory=dict)
    goal: str | None = None
    keep: int = 64


def build_solver(spec: SolveSpec) -> tuple[Solver, dict[str, Any]]:
    """The solver and all of its parameters.

    Raises:
        UsageError: an unknown solver or parameter; the message has the nearest name.
    """
    build = registry.load(ingest.solvers, spec.solver).build
    params = registry.resolve(spec.solver, build, dict(spec.params))
    return build(**params), params


def solve(
    atlas: Path,
    name: str,
    spec: SolveSpec,
    job: Job,
    execution: Execution,
    *,
    prompt_dataset: PromptDataset | None = None,
    neurons: NeuronSet | None = None,
    note: str | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Edit, Solution]:
    """Compute an edit on the job's examples (or on those of `prompt_dataset`) and store it.

    neurons: those that may change; the solver chooses them by default.

    Raises:
        UsageError: no answer has the word, an unknown word, neurons of another model.
    """
    check_name(name)
    solver, params = build_solver(spec)
    dataset: Dataset = open_dataset(job) if prompt_dataset is None else prompt_dataset
    live = prepare.load_model(job, execution)
    if neurons is not None and neurons.provenance["fingerprint"] != live.fingerprint:
        raise UsageError("these neurons are of other weights than the model has now; ingest it again")
    job = _about(live, job, dataset, spec)
    problem = build_problem(live, dataset, job, spec, execution.batch_size, neurons, progress)
    started = time.perf_counter()
    solution = solver.solve(problem)
    seconds = round(time.perf_counter() - started, 3)
    solver_record: dict[str, Any] = {
        "name": spec.solver,
        "params": params,
        "seed": job.seed,
        **_plain(spec),
        "cases": len(problem.cases),
    }
    solver_record |= {"report": dict(solution.report), "seconds": seconds, "chosen": neurons is not None}
    solver_record |= {"batch_size": execution.batch_size}
    if plugins := plugins_of(job) | family_plugin(live) | registry.origins({ingest.solvers: [spec.solver]}):
        solver_record["plugins"] = plugins
    concept = job.concepts[0] if len(job.concepts) == 1 and prompt_dataset is None else None
    origin: Provenance = {
        "fingerprint": live.fingerprint,
        "model": live.name,
        "concept": concept,
        "solver": solver_record,
        "dataset": job.dataset,
        "options": dict(job.options),
        "job": _job(job),
    }
    if neurons is not None:
        origin["of"] = neurons.provenance
    if prompt_dataset is not None:
        origin["asked"] = prompt_dataset.plain()
    return edit_library.new(atlas, name, solution.intervention, origin, model=model_row(live), note=note), solution


def _plain(spec: SolveSpec) -> dict[str, Any]:
    return {"swap": asdict(spec.swap), "goal": spec.goal, "keep": spec.keep}


def _job(job: Job) -> dict[str, Any]:
    """The job's fields that determine the examples."""
    names = ("concepts", "sources", "tasks", "split", "per_concept", "seed", "max_new_tokens")
    return {n: list(v) if isinstance(v := getattr(job, n), tuple) else v for n in names}


def _about(live: LiveModel, job: Job, dataset: Dataset, spec: SolveSpec) -> Job:
    """The job with the concepts whose answers may have the word: those it names, else the word's concept, else all."""
    matching = [c.name for c in dataset.concepts.values() if spec.swap.said.lower() in c.forms]
    return complete(replace(job, concepts=job.concepts or tuple(matching)), dataset, live.takes)


def build_problem(
    live: LiveModel,
    dataset: Dataset,
    job: Job,
    spec: SolveSpec,
    batch_size: int,
    neurons: NeuronSet | None = None,
    progress: Progress = lambda done, total: None,
) -> Problem:
    """The problem made of a job's examples: those whose answer says the word, and others to keep.

    Raises:
        UsageError: no answer has the word, the model does not say it, or no such concept to move to.
    """
    return Problem(
        live,
        _cases(live, dataset, job, spec.swap, batch_size),
        suppress=spec.swap.wanted is None,
        keep=keep_items(live, dataset, job, spec, batch_size),
        goals=_goals(live, dataset, job, spec, batch_size),
        neurons=None if neurons is None else list(dict.fromkeys(neurons.neurons)),
        batch_size=batch_size,
        seed=job.seed,
        progress=progress,
    )


def _cases(live: LiveModel, dataset: Dataset, job: Job, swap: Swap, batch_size: int) -> list[SwapCase]:
    """The examples of the job in which the model says the word.

    Raises:
        UsageError: there are none.
    """
    is_prompt = isinstance(dataset, PromptDataset)
    encoder = ExampleEncoder(live, dataset, job, bad_media="fail" if is_prompt else "skip")
    examples = prepare.collect(replace(job, negatives=0), dataset)
    with_word = make_cases(encoder, list(enumerate(examples)), swap, batch_size)
    if not with_word and is_prompt:
        answers = "; ".join(response.text.strip() for response in encoder.made)
        raise UsageError(f"the model's answer is '{answers}', without '{swap.said}'; give a [[word]] that it says")
    if not with_word:
        raise UsageError(
            f"none of {len(examples)} answers says '{swap.said}'; choose other [[concepts]], [[tasks]] or [[sources]] "
            "(`atlas datasets NAME` lists tasks)"
        )
    cases = spoken_cases(live, with_word, batch_size)
    if not cases:
        raise UsageError(
            f"'{swap.said}' is already absent: the model says it in none of its {len(with_word)} answers; "
            "`atlas generate` shows what it says"
        )
    return cases


def keep_items(live: LiveModel, dataset: Dataset, job: Job, spec: SolveSpec, batch_size: int) -> list[Item]:
    """Answers about other concepts, without the word, that must stay as they are."""
    if not spec.keep or len(job.concepts) == len(dataset.concepts):
        return []
    tasks = {source: source_tasks for source, source_tasks in tasks_by_source(job, dataset).items() if source_tasks}
    negatives_job = replace(job, negatives=math.ceil(spec.keep / len(tasks)))  # of every source alike
    negatives_by_source = [
        prepare.negatives(negatives_job, dataset, source, job.split, source_tasks)
        for source, source_tasks in tasks.items()
    ]
    encoder = ExampleEncoder(live, dataset, job)
    answered = encoder.items(
        [(i, e) for i, e in enumerate(e for source_tasks in negatives_by_source for e in source_tasks)], batch_size
    )
    return [i for i in answered if not spans(live.encoder.decode(i.prompt.answer), [spec.swap.said])][: spec.keep]


def _goals(live: LiveModel, dataset: Dataset, job: Job, spec: SolveSpec, batch_size: int) -> list[Item]:
    if spec.goal is None:
        return []
    if isinstance(dataset, PromptDataset):
        raise UsageError(f"{spec.solver} moves to another concept's examples; leave out [[prompt]] and [[image]]")
    if spec.goal not in dataset.concepts:
        raise unknown("concept", spec.goal, dataset.concepts, f"atlas concepts --dataset {dataset.name}")
    job = complete(replace(job, concepts=(spec.goal,), negatives=0), dataset, live.takes)
    examples = prepare.collect(job, dataset)
    goal_items = ExampleEncoder(live, dataset, job).items(list(enumerate(examples)), batch_size)
    if not goal_items:
        raise UsageError(f"no answer mentions '{spec.goal}'; give another [[to_concept]] or other [[tasks]]")
    return goal_items


class PromptDataset:
    """A dataset of one prompt with its pictures; its answer is the model's own."""

    name, revision, licence = "asked", "", ""
    path: str | None = None

    def __init__(self, prompt: str, pictures: Sequence[str], concept: str):
        self.concepts: Mapping[str, Concept] = {concept: Concept(concept, (concept.lower(),))}
        self._source = IMAGE if pictures else TEXT
        self.all_tasks: Mapping[str, tuple[str, ...]] = {self._source: ("asked",)}
        self.tasks: Mapping[str, tuple[str, ...]] = self.all_tasks
        self.metrics: Mapping[str, tuple[str, ...]] = {}
        mention = (Mention(concept),)
        self._example = Example(self._source, "asked", FIND, prompt, None, mention, tuple(pictures))

    def plain(self) -> dict[str, Any]:
        """The arguments that make it again."""
        return {
            "prompt": self._example.prompt,
            "pictures": list(self._example.media),
            "concept": next(iter(self.concepts)),
        }

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        """The one example."""
        return [self._example]

    def image(self, media: str) -> Image:
        """The picture of this name."""
        return open_picture(media)

    def digest(self, media: str) -> str:
        """The name itself."""
        return media

    def mask(self, media: str, concept: str) -> np.ndarray:
        """A single prompt has no masks; always a UsageError."""
        raise UsageError("a single prompt has no masks; use a dataset that has them")
