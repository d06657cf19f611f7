"""The smallest change of write vectors that makes a model draw one thing where it was asked for another.

NAM's image editing (Fang et al. 2024): with A, (J, K), the mean values of the chosen neurons at the picture's J states,
and dH, (J, d_model), the difference of the two concepts' mean final residuals there, the least-norm dV with A dV = dH
is pinv(A) dH. In this one-layer linear view its norm depends on the chosen values alone, so the report compares it with
the norm for as many of the most active neurons and for random ones, and says how far the running model moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from atlas.edits import library as edit_library
from atlas.edits.edit import Change, Edit, Intervention
from atlas.errors import UsageError, unknown
from atlas.live.draw.pictures import states_of
from atlas.live.edit.apply import changing
from atlas.live.model import LiveModel
from atlas.neurons import LANGUAGE, Neuron
from atlas.query.neuron_set import NeuronSet
from atlas.query.provenance import Provenance
from atlas.stats.random_neurons import matched_random
from atlas.store.names import check_name
from ingest.data.examples import FIND, IMAGE, Dataset
from ingest.job import DataSpec, Execution, Job, make_job, open_dataset
from ingest.run import prepare
from ingest.run.encode_examples import ExampleEncoder, batches
from ingest.run.record import model_row
from ingest.run.resolve import complete

if TYPE_CHECKING:
    from atlas.live.encode import Prompt

DRAWS = 20
CUT = 1e-3
"""Singular values below this fraction of the largest count as zero: they would add norm and hardly any movement."""


class DrawingRequests:
    """Requests for one concept, with the mean final residuals and neuron values at the picture's states.

    residual: (J, d_model). values: (J, layers, neurons).
    """

    def __init__(self, live: LiveModel, dataset: Dataset, job: Job, concept: str, batch_size: int):
        job = complete(replace(job, concepts=(concept,), negatives=0), dataset, live.takes)
        self.live, self.batch_size = live, batch_size
        examples = [e for e in prepare.collect(job, dataset) if e.target == IMAGE]
        if not examples:
            raise UsageError(f"no example asks for a picture of {concept}; give [[tasks]] that do (scenes has draw)")
        prompted = ExampleEncoder(live, dataset, job).answered(list(enumerate(examples)), batch_size)
        self.prompts: list[Prompt] = [p for _, _, p in prompted if live.drawer.places(p.answer) is not None]
        if not self.prompts:
            raise UsageError(f"none of the model's {len(examples)} answers to requests for {concept} is a picture")
        self.residual, self.values = self.observe()

    @torch.no_grad()
    def observe(self) -> tuple[Tensor, Tensor]:
        """(residual, values): both means, of the model as it is now."""
        residual, values = torch.zeros(()), torch.zeros(())
        for chunk in batches(self.prompts, self.batch_size):
            capture, positions, _ = states_of(self.live, chunk)
            rows = torch.arange(len(chunk), device=positions.device)[:, None]
            assert capture.norm_in is not None, "the traced pass did not reach the final norm"
            residual = residual + capture.norm_in[rows, positions].float().sum(0).cpu()
            layers = [capture.values[layer][rows, positions].float().sum(0).cpu() for layer in sorted(capture.values)]
            values = values + torch.stack(layers, 1)
        return residual / len(self.prompts), values / len(self.prompts)


def least_norm_deltas(values: Tensor, change: Tensor) -> Tensor:
    """(K, d_model): pinv(A) dH for the (J, K) values A and the (J, d_model) change dH.

    Raises:
        UsageError: every value is 0.
    """
    if not values.any():
        raise UsageError("the neurons are all 0 where pictures are requested; choose others")
    deltas: Tensor = torch.linalg.pinv(values.double(), rtol=CUT) @ change.double()
    return deltas.float()


def minimal_norm(
    requests: DrawingRequests, goal: DrawingRequests, neurons: Sequence[Neuron], seed: int
) -> tuple[Intervention, dict[str, Any]]:
    """The edit, and a report of its norm and effect beside those of other neurons."""
    neurons = sorted(set(neurons))
    change = goal.residual - requests.residual
    deltas = least_norm_deltas(_of(requests.values, neurons), change)
    intervention = Intervention(tuple(Change(n, write=i) for i, n in enumerate(neurons)), deltas=deltas.numpy())
    with changing(requests.live, intervention):
        moved = requests.observe()[0] - requests.residual
    layers, width = requests.values.shape[1:]
    loudest = requests.values.pow(2).sum(0).flatten().topk(len(neurons)).indices
    loud = [Neuron(LANGUAGE, *divmod(int(i), width)) for i in loudest]
    drawn = [_of(requests.values, matched_random(neurons, width, seed + i)) for i in range(DRAWS)]
    random_draws = [(least_norm_deltas(values, change), values) for values in drawn if values.any()]
    reach = [_along(values @ solved, change) for solved, values in random_draws]
    own_reach = _along(_of(requests.values, neurons) @ deltas, change)
    # Changes to nearly silent neurons have small norms because they have little effect: leave them out.
    norms = [
        float(solved.norm()) for (solved, _), moves in zip(random_draws, reach, strict=True) if moves >= own_reach / 2
    ]
    return intervention, {
        "neurons": len(neurons),
        "layers": layers,
        "delta_norm": float(deltas.norm()),
        "distance": float(change.norm()),
        "moved": _along(moved, change),
        "distance_left": float((change - moved).norm()),
        "energy_null_norm": float(least_norm_deltas(_of(requests.values, loud), change).norm()),
        "random_draws": DRAWS,
        "random_that_reach": len(norms),
        "random_norm_median": float(np.median(norms)) if norms else float("inf"),
        "random_norm_least": min(norms, default=float("inf")),
    }


def _along(moved: Tensor, change: Tensor) -> float:
    """How far a movement goes in the direction of a change, as a fraction of it."""
    return float((moved * change).sum() / change.norm() ** 2)


def _of(values: Tensor, neurons: Sequence[Neuron]) -> Tensor:
    """(J, K): the neurons' values, from (J, layers, neurons)."""
    return torch.stack([values[:, n.layer, n.index] for n in neurons], 1)


def solve_drawing(
    atlas: Path,
    name: str,
    source_concept: str,
    goal: str,
    job: Job,
    execution: Execution,
    neurons: NeuronSet,
    *,
    note: str | None = None,
) -> tuple[Edit, dict[str, Any]]:
    """Compute the edit that makes requests for one concept draw another, and store it.

    Raises:
        UsageError: an unknown concept, no picture in the answers, neurons of another model.
    """
    check_name(name)
    dataset = open_dataset(job)
    for concept in (source_concept, goal):
        if concept not in dataset.concepts:
            raise unknown("concept", concept, dataset.concepts, f"atlas concepts --dataset {job.dataset}")
    live = prepare.load_model(job, execution)
    if neurons.provenance["fingerprint"] != live.fingerprint:
        raise UsageError("these neurons are of other weights than the model has now; ingest it again")
    started = time.perf_counter()
    requests, goal_requests = (
        DrawingRequests(live, dataset, job, concept, execution.batch_size) for concept in (source_concept, goal)
    )
    intervention, report = minimal_norm(requests, goal_requests, neurons.neurons, job.seed)
    recorded_fields = ("tasks", "per_concept", "seed", "max_new_tokens", "segmenter", "segmenting", "drawing")
    plain = {n: list(v) if isinstance(v := getattr(job, n), tuple) else v for n in recorded_fields}
    solver_record: dict[str, Any] = {
        "name": "minimal_norm",
        "target": IMAGE,
        "swap": {"said": source_concept, "wanted": goal},
        "goal": goal,
        "params": {},
    }
    solver_record |= {"keep": 0, "report": report, "seconds": round(time.perf_counter() - started, 3), "seed": job.seed}
    solver_record |= {"cases": len(requests.prompts), "chosen": True, "batch_size": execution.batch_size}
    origin: Provenance = {
        "fingerprint": live.fingerprint,
        "model": live.name,
        "concept": source_concept,
        "of": neurons.provenance,
        "solver": solver_record,
        "dataset": job.dataset,
        "options": dict(job.options),
        "job": plain,
    }
    return edit_library.new(atlas, name, intervention, origin, model=model_row(live), note=note), report


def solving_drawing_again(edit: Edit, live: LiveModel) -> Callable[[Sequence[Neuron]], Intervention]:
    """A function that solves such an edit's problem again on other neurons."""
    record = edit.provenance["solver"]
    dataset = open_dataset(DataSpec(dataset=edit.provenance["dataset"], options=edit.provenance["options"]))
    job = make_job({**edit.provenance["job"], "dataset": edit.provenance["dataset"], "split": FIND})
    requests, goal_requests = (
        DrawingRequests(live, dataset, job, concept, record["batch_size"])
        for concept in (record["swap"]["said"], record["goal"])
    )
    return lambda neurons: minimal_norm(requests, goal_requests, neurons, record["seed"])[0]
