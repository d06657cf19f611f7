"""What writing a run's files costs: the real code on what a rehearsal has, into a folder that is then removed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from atlas.live.logit_lens import Decoded
from atlas.live.model import LiveModel
from atlas.query.decoded import BOTTOM, PLAIN, TOP, Z
from atlas.store.run_writer import write_run
from ingest.data.examples import Dataset
from ingest.job import Job
from ingest.run import arrow_tables
from ingest.run.decodings import STORED, DecodedNeurons, decodings_batches
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.map_step import State, read_portion, write_portion
from ingest.run.record import concept_rows, dataset_row, model_row

RUN = "0" * 32
"""The run's id."""

REPEATS, MORE = 4, 8
"""How often every table is written; the fastest counts, as what a layer adds is a small difference. MORE: the layers
whose decoded tokens tell what one adds, as these are most of what is written."""


def writing_costs(
    live: LiveModel, dataset: Dataset, job: Job, state: State, encoder: ExampleEncoder, ids: Sequence[str]
) -> dict[str, float]:
    """Seconds of a portion, the maps' scores and the exemplars. ids: of all examples."""
    with _writing(live, dataset) as (folder, seconds_of):
        seconds_of(lambda: _scores(job, state, sorted(dataset.concepts)))  # what is loaded only once
        bare = seconds_of(dict)
        costs = {
            "portion": _of_portion(folder / "portion.safetensors", job, state, encoder),
            "scores": seconds_of(lambda: _scores(job, state, sorted(dataset.concepts))) - bare,
            "exemplars": seconds_of(lambda: _exemplars(live, state, ids)) - bare,
        }
    return {name: max(0.0, seconds) for name, seconds in costs.items()}


def decoding_costs(live: LiveModel, dataset: Dataset) -> dict[str, float]:
    """Seconds of writing the decoded tokens of one layer, and what another layer adds: first, further. The same for
    all sources, and whatever the model's depth."""
    with _writing(live, dataset) as (_, seconds_of):
        seconds_of(lambda: {"decodings": decodings_batches(live, _decoded(live, 1))})  # what is loaded only once
        bare = seconds_of(dict)
        one, more = (
            seconds_of(lambda n=layers: {"decodings": decodings_batches(live, _decoded(live, n))})  # type: ignore[misc]
            for layers in (1, 1 + MORE)
        )
    return {"first": max(0.0, one - bare), "further": max(0.0, (more - one) / MORE)}


SecondsOf = Callable[[Callable[[], Mapping[str, Any]]], float]
"""The seconds of making and writing a run's tables."""


@contextmanager
def _writing(live: LiveModel, dataset: Dataset) -> Iterator[tuple[Path, SecondsOf]]:
    """A folder that is then removed, and what times the writing of tables there."""
    when = "2000-01-01T00:00:00+00:00"
    run = {"run_id": RUN, "kind": "ingest", "job": {}, "environment": {}, "outcome": {}}
    head = {
        "run": run | {"started_at": when, "finished_at": when},
        "model": model_row(live),
        "dataset": dataset_row(dataset),
        "concepts": concept_rows(dataset),
    }
    with tempfile.TemporaryDirectory() as folder:

        def seconds_of(tables: Callable[[], Mapping[str, Any]]) -> float:
            taken = []
            for _ in range(REPEATS):
                started = time.perf_counter()
                write_run(Path(folder) / RUN, head, tables())
                taken.append(time.perf_counter() - started)
            return min(taken)

        yield Path(folder), seconds_of


def _of_portion(file: Path, job: Job, state: State, encoder: ExampleEncoder) -> float:
    started = time.perf_counter()
    write_portion(file, state, encoder, [])
    stored = read_portion(file)
    assert stored is not None, f"{file} cannot be read back"
    State(job).merge(stored[0])
    return time.perf_counter() - started


def _scores(job: Job, state: State, names: Sequence[str]) -> dict[str, Any]:
    maps = arrow_tables.with_scores(arrow_tables.collect_maps(state, job))
    return {
        "maps": arrow_tables.maps_table(RUN, job, maps, names),
        "scores": arrow_tables.score_batches(RUN, job, maps),
    }


def _exemplars(live: LiveModel, state: State, ids: Sequence[str]) -> dict[str, Any]:
    return {"exemplars": arrow_tables.exemplars_table(RUN, live, state.exemplars, ids)}


def _decoded(live: LiveModel, layers: int) -> DecodedNeurons:
    """Tokens as of all neurons of so many layers, drawn at random."""
    width, vocabulary = live.layout.width, live.layout.vocabulary

    def blocks() -> Iterator[Decoded]:
        for layer in range(layers):
            for projection in (Z, PLAIN):
                for side in (TOP, BOTTOM):
                    tokens = torch.randint(vocabulary, (width, STORED)).int()
                    yield Decoded(layer, 0, projection, side, tokens, torch.randn(width, STORED))

    return DecodedNeurons(list(blocks()), {})
