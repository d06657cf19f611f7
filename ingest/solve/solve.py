"""Edits that are computed: from a job's examples, or from one prompt with its pictures, to a stored edit."""

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
from atlas.store.names import check_name
from ingest.attribution.trace import Item
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
    """What to compute. solver: a file of `ingest/solvers`, with its parameters. swap: the words. goal: the concept to
    move to, for solvers of representations. keep: how many examples of other concepts must stay as they are."""

    solver: str
    swap: Swap
    params: Mapping[str, Any] = field(default_factory=dict)
    goal: str | None = None
    keep: int = 64


def build_solver(wanted: SolveSpec) -> tuple[Solver, dict[str, Any]]:
    """The solver and all of its parameters.

    Raises:
        UsageError: an unknown solver or parameter; the message has the nearest name.
    """
    build = registry.load(ingest.solvers, wanted.solver).build
    params = registry.resolve(wanted.solver, build, dict(wanted.params))
    return build(**params), params


def solve(
    atlas: Path,
    name: str,
    wanted: SolveSpec,
    job: Job,
    execution: Execution,
    *,
    asked: PromptDataset | None = None,
    neurons: NeuronSet | None = None,
    note: str | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Edit, Solution]:
    """Compute an edit on the job's examples (or on what is `asked`) and store it.

    neurons: those that may change; the solver chooses them by default.

    Raises:
        UsageError: nothing to swap, an unknown word, neurons of another model.
    """
    check_name(name)
    solver, params = build_solver(wanted)
    dataset: Dataset = open_dataset(job) if asked is None else asked
    live = prepare.load_model(job, execution)
    if neurons is not None and neurons.provenance["fingerprint"] != live.fingerprint:
        raise UsageError("these neurons are of other weights than the model has now; ingest it again")
    job = _about(live, job, dataset, wanted)
    problem = build_problem(live, dataset, job, wanted, execution.batch_size, neurons, progress)
    started = time.perf_counter()
    solution = solver.solve(problem)
    seconds = round(time.perf_counter() - started, 3)
    origin = {} if neurons is None else {"of": neurons.provenance}
    said = {"name": wanted.solver, "params": params, "seed": job.seed, **_plain(wanted), "cases": len(problem.cases)}
    said |= {"report": dict(solution.report), "seconds": seconds, "chosen": neurons is not None}
    said |= {"batch_size": execution.batch_size}
    if plugins := plugins_of(job) | family_plugin(live) | registry.origins({ingest.solvers: [wanted.solver]}):
        said["plugins"] = plugins
    concept = job.concepts[0] if len(job.concepts) == 1 and asked is None else None
    about = {"fingerprint": live.fingerprint, "model": live.name, "concept": concept, **origin}
    about |= {"solver": said, "dataset": job.dataset, "options": dict(job.options), "job": _job(job)}
    about |= {} if asked is None else {"asked": asked.plain()}
    return edit_library.new(atlas, name, solution.intervention, about, model=model_row(live), note=note), solution


def _plain(wanted: SolveSpec) -> dict[str, Any]:
    return {"swap": asdict(wanted.swap), "goal": wanted.goal, "keep": wanted.keep}


def _job(job: Job) -> dict[str, Any]:
    """What of the job decides the examples."""
    names = ("concepts", "sources", "tasks", "split", "per_concept", "seed", "max_new_tokens")
    return {n: list(v) if isinstance(v := getattr(job, n), tuple) else v for n in names}


def _about(live: LiveModel, job: Job, dataset: Dataset, wanted: SolveSpec) -> Job:
    """The job with the concepts whose answers may have the word: those it names, that of the word, else all."""
    named = [c.name for c in dataset.concepts.values() if wanted.swap.said.lower() in c.forms]
    return complete(replace(job, concepts=job.concepts or tuple(named)), dataset, live.takes)


def build_problem(
    live: LiveModel,
    dataset: Dataset,
    job: Job,
    wanted: SolveSpec,
    batch_size: int,
    neurons: NeuronSet | None = None,
    progress: Progress = lambda done, total: None,
) -> Problem:
    """The problem that a job's examples are: those whose answer says the word, and others to keep.

    Raises:
        UsageError: no answer has the word, the model does not say it, or no such concept to move to.
    """
    return Problem(
        live,
        _cases(live, dataset, job, wanted.swap, batch_size),
        suppress=wanted.swap.wanted is None,
        keep=keep_items(live, dataset, job, wanted, batch_size),
        goals=_goals(live, dataset, job, wanted, batch_size),
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
    asked = isinstance(dataset, PromptDataset)
    feed = ExampleEncoder(live, dataset, job, bad_media="fail" if asked else "skip")
    examples = prepare.collect(replace(job, negatives=0), dataset)
    found = make_cases(feed, list(enumerate(examples)), swap, batch_size)
    if not found and asked:
        said = "; ".join(response.text.strip() for response in feed.made)
        raise UsageError(f"the model's answer does not say '{swap.said}' but '{said}'; give a --from that it says")
    if not found:
        raise UsageError(
            f"no answer of {len(examples)} says '{swap.said}'; choose other --concepts, --tasks or --sources "
            "(`atlas datasets NAME` lists tasks)"
        )
    cases = spoken_cases(live, found, batch_size)
    if not cases:
        raise UsageError(
            f"'{swap.said}' is already absent: the model says it in none of {len(found)} answers; "
            "`atlas generate` shows what it says"
        )
    return cases


def keep_items(live: LiveModel, dataset: Dataset, job: Job, wanted: SolveSpec, batch_size: int) -> list[Item]:
    """Answers of the other concepts, without the word, that must stay as they are."""
    if not wanted.keep or len(job.concepts) == len(dataset.concepts):
        return []
    tasks = {source: some for source, some in tasks_by_source(job, dataset).items() if some}
    asking = replace(job, negatives=math.ceil(wanted.keep / len(tasks)))  # of every source alike
    each = [prepare.negatives(asking, dataset, source, job.split, some) for source, some in tasks.items()]
    feed = ExampleEncoder(live, dataset, job)
    found = feed.items([(i, e) for i, e in enumerate(e for some in each for e in some)], batch_size)
    return [i for i in found if not spans(live.encoder.decode(i.prompt.answer), [wanted.swap.said])][: wanted.keep]


def _goals(live: LiveModel, dataset: Dataset, job: Job, wanted: SolveSpec, batch_size: int) -> list[Item]:
    if wanted.goal is None:
        return []
    if isinstance(dataset, PromptDataset):
        raise UsageError(f"{wanted.solver} moves to another concept's examples; leave out --prompt and --image")
    if wanted.goal not in dataset.concepts:
        raise unknown("concept", wanted.goal, dataset.concepts, f"atlas concepts --dataset {dataset.name}")
    job = complete(replace(job, concepts=(wanted.goal,), negatives=0), dataset, live.takes)
    examples = prepare.collect(job, dataset)
    found = ExampleEncoder(live, dataset, job).items(list(enumerate(examples)), batch_size)
    if not found:
        raise UsageError(f"no answer mentions '{wanted.goal}'; give another --to-concept or other --tasks")
    return found


class PromptDataset:
    """One prompt with its pictures as a dataset: its answer is the model's own."""

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
        """What makes it again."""
        return {
            "prompt": self._example.prompt,
            "pictures": list(self._example.media),
            "concept": next(iter(self.concepts)),
        }

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        """The one that there is."""
        return [self._example]

    def image(self, media: str) -> Image:
        return open_picture(media)

    def digest(self, media: str) -> str:
        return media

    def mask(self, media: str, concept: str) -> np.ndarray:
        raise UsageError("what is asked has no masks")
