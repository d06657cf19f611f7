"""The smallest change of write vectors that makes a model draw one thing where it was asked for another.

NAM's image editing (Fang et al. 2024): with A, (J, K), the mean values of the chosen neurons at the picture's J states
and dH, (J, d_model), how the mean final residuals of the two concepts differ there, the least dV with A dV = dH is the
pseudo-inverse's, pinv(A) dH. In this one-layer linear view its norm depends on the chosen values alone, so the report
has beside it the norm for as many of the loudest neurons and for random ones, and how far the running model moves.
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
"""Singular values below so much of the largest count as none: what they would take is all norm and no move."""


class DrawingRequests:
    """What the model draws of one concept: its mean final residuals and neuron values at the picture's states.

    residual: (J, d_model). values: (J, layers, neurons).
    """

    def __init__(self, live: LiveModel, dataset: Dataset, job: Job, concept: str, batch_size: int):
        job = complete(replace(job, concepts=(concept,), negatives=0), dataset, live.takes)
        self.live, self.batch_size = live, batch_size
        examples = [e for e in prepare.collect(job, dataset) if e.target == IMAGE]
        if not examples:
            raise UsageError(f"no example asks for a picture of {concept}; give --tasks that do (scenes has draw)")
        found = ExampleEncoder(live, dataset, job).answered(list(enumerate(examples)), batch_size)
        self.prompts: list[Prompt] = [p for _, _, p in found if live.drawer.places(p.answer) is not None]
        if not self.prompts:
            raise UsageError(f"none of the model's {len(examples)} answers to requests for {concept} is a picture")
        self.residual, self.values = self.observe()

    @torch.no_grad()
    def observe(self) -> tuple[Tensor, Tensor]:
        """Both means, of the model as it is now."""
        residual, values = torch.zeros(()), torch.zeros(())
        for some in batches(self.prompts, self.batch_size):
            capture, at, _ = states_of(self.live, some)
            rows = torch.arange(len(some), device=at.device)[:, None]
            assert capture.norm_in is not None, "the traced pass did not reach the final norm"
            residual = residual + capture.norm_in[rows, at].float().sum(0).cpu()
            layers = [capture.values[layer][rows, at].float().sum(0).cpu() for layer in sorted(capture.values)]
            values = values + torch.stack(layers, 1)
        return residual / len(self.prompts), values / len(self.prompts)


def least_norm_deltas(values: Tensor, change: Tensor) -> Tensor:
    """(K, d_model): pinv(A) dH for (J, K) values and (J, d_model) the change.

    Raises:
        UsageError: every value is 0.
    """
    if not values.any():
        raise UsageError("the neurons are silent where pictures are asked for; choose others")
    found: Tensor = torch.linalg.pinv(values.double(), rtol=CUT) @ change.double()
    return found.float()


def minimal_norm(
    requests: DrawingRequests, goal: DrawingRequests, neurons: Sequence[Neuron], seed: int
) -> tuple[Intervention, dict[str, Any]]:
    """The edit, and the report."""
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
    random = [(least_norm_deltas(values, change), values) for values in drawn if values.any()]
    reach = [_along(values @ found, change) for found, values in random]
    own = _along(_of(requests.values, neurons) @ deltas, change)
    # Near-silent neurons can be changed little because little comes of it: their norm tells nothing.
    norms = [float(found.norm()) for (found, _), moves in zip(random, reach, strict=True) if moves >= own / 2]
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
    """How far a move goes towards a change: 1, all the way."""
    return float((moved * change).sum() / change.norm() ** 2)


def _of(values: Tensor, neurons: Sequence[Neuron]) -> Tensor:
    """(J, K) of (J, layers, neurons)."""
    return torch.stack([values[:, n.layer, n.index] for n in neurons], 1)


def solve_drawing(
    atlas: Path,
    name: str,
    said: str,
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
    for concept in (said, goal):
        if concept not in dataset.concepts:
            raise unknown("concept", concept, dataset.concepts, f"atlas concepts --dataset {job.dataset}")
    live = prepare.load_model(job, execution)
    if neurons.provenance["fingerprint"] != live.fingerprint:
        raise UsageError("these neurons are of other weights than the model has now; ingest it again")
    started = time.perf_counter()
    requests, wanted = (DrawingRequests(live, dataset, job, concept, execution.batch_size) for concept in (said, goal))
    intervention, report = minimal_norm(requests, wanted, neurons.neurons, job.seed)
    kept = ("tasks", "per_concept", "seed", "max_new_tokens", "segmenter", "segmenting", "drawing")
    plain = {n: list(v) if isinstance(v := getattr(job, n), tuple) else v for n in kept}
    told: dict[str, Any] = {
        "name": "minimal_norm",
        "target": IMAGE,
        "swap": {"said": said, "wanted": goal},
        "goal": goal,
        "params": {},
    }
    told |= {"keep": 0, "report": report, "seconds": round(time.perf_counter() - started, 3), "seed": job.seed}
    told |= {"cases": len(requests.prompts), "chosen": True, "batch_size": execution.batch_size}
    about = {"fingerprint": live.fingerprint, "model": live.name, "concept": said, "of": neurons.provenance}
    about |= {"solver": told, "dataset": job.dataset, "options": dict(job.options), "job": plain}
    return edit_library.new(atlas, name, intervention, about, model=model_row(live), note=note), report


def solving_drawing_again(edit: Edit, live: LiveModel) -> Callable[[Sequence[Neuron]], Intervention]:
    """Solve such an edit's problem once more on other neurons."""
    said = edit.provenance["solver"]
    dataset = open_dataset(DataSpec(dataset=edit.provenance["dataset"], options=edit.provenance["options"]))
    job = make_job({**edit.provenance["job"], "dataset": edit.provenance["dataset"], "split": FIND})
    here, there = (
        DrawingRequests(live, dataset, job, c, said["batch_size"]) for c in (said["swap"]["said"], said["goal"])
    )
    return lambda neurons: minimal_norm(here, there, neurons, said["seed"])[0]
