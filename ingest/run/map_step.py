"""The map step: examples in fixed portions, each portion's state in one file, so that an interrupted run can resume."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from atlas.live.model import LiveModel
from atlas.neurons import parse_layers
from atlas.store.atomic import write_atomically
from ingest.attribution.estimators import GRADIENT, IMAGE_TARGET, TEXT_TARGET, Method
from ingest.attribution.exemplars import Exemplars
from ingest.attribution.finite import FiniteCheck, check_state
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import ATTENTION, Trace, traced
from ingest.data.examples import Example
from ingest.draw.drawings import Drawings
from ingest.draw.image_trace import drawn
from ingest.job import Execution, Job
from ingest.run.encode_examples import ExampleEncoder, Response, batches
from ingest.run.phases import ANSWERING, ENCODING, PASSING, WRITING, Phases
from ingest.run.resolve import methods
from ingest.run.swapped_answers import answer_methods, swapped

Numbered = tuple[int, Example]
Progress = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""


EXEMPLARS = "*exemplars"
"""The exemplars' name among a state's parts: no method is called so."""


class State:
    """What a run accumulates: every method's sums and the exemplars."""

    def __init__(self, job: Job):
        self.methods = methods(job)
        self.answers = answer_methods(job)
        self.exemplars = Exemplars(job.exemplars)
        self.pairs = 0  # (example, concept) pairs seen
        self.phases = Phases()

    def update(self, trace: Trace) -> None:
        """Let every method that can read a batch's trace."""
        for name, method in self.methods.items():
            if trace.target in method.targets and (method.sources is None or trace.source in method.sources):
                with self.phases.phase(name):
                    method.update(trace)
        if trace.target == TEXT_TARGET:
            with self.phases.phase("exemplars"):
                self.exemplars.update(trace)
        self.pairs += len(trace.concepts)

    def update_answers(self, trace: Trace) -> None:
        """Let the methods of swapped examples read a batch's trace."""
        for name, method in self.answers.items():
            if method.sources is None or trace.source in method.sources:
                with self.phases.phase(name):
                    method.update(trace)

    def parts(self) -> dict[str, Method | Exemplars]:
        """Everything that accumulates, by its name in a portion's file."""
        return {**self.methods, **self.answers, EXEMPLARS: self.exemplars}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state of all parts: part/key -> tensor."""
        flat = {f"{part}/{key}": value for part, s in self.parts().items() for key, value in s.state().items()}
        return {key: value.contiguous() for key, value in flat.items()}

    def merge(self, tensors: dict[str, torch.Tensor]) -> None:
        """Add the state of a portion, as `tensors` gives it."""
        for part, holder in self.parts().items():
            part_tensors = {k.partition("/")[2]: v for k, v in tensors.items() if k.partition("/")[0] == part}
            holder.merge(part_tensors)


def portions(examples: Sequence[Numbered]) -> list[Sequence[Numbered]]:
    """At most 16 portions of at least 64 examples, or of 8 where pictures are drawn, each of which may take minutes.

    They depend on the examples alone, so that a resumed run makes the same ones as the interrupted run."""
    least = 8 if any(example.target == IMAGE_TARGET for _, example in examples) else 64
    return list(batches(examples, max(least, math.ceil(len(examples) / 16))))


def map_portion(
    live: LiveModel,
    encoder: ExampleEncoder,
    job: Job,
    execution: Execution,
    portion: Sequence[Numbered],
    tick: Callable[[int], None],
) -> State:
    """One shared pass over a portion: each batch goes through the model once, and every method reads its trace.

    Raises:
        NotFinite: a pass, a gradient or a score is NaN or infinite.
    """
    state = State(job)
    grad = any(GRADIENT in method.needs for method in state.methods.values())
    attention = any(ATTENTION in method.needs for method in state.methods.values())
    layers = parse_layers(job.layers) if job.layers else None
    finite, ids = FiniteCheck(live.dtype), {number: example.id for number, example in portion}
    trace_options: dict[str, Any] = {"layers": layers, "tap": job.tap, "grad": grad, "later": finite}
    drawings = Drawings(live, encoder.dataset, job) if any(e.target == IMAGE_TARGET for _, e in portion) else None
    portion_stretches = stretches(portion, job, execution.batch_size)
    for (source, target), stretch, items in encoded(encoder, portion_stretches, execution.batch_size, state.phases):
        for chosen in batches(items, execution.batch_size):
            if target == IMAGE_TARGET:
                assert drawings is not None
                with drawn(live, chosen, source, drawings, **trace_options) as (picture, missing):
                    encoder.skipped.unplaced.update(missing)
                    if picture is not None:
                        state.update(picture)
                continue
            with passing(state.phases, traced(live, chosen, source, **trace_options, attention=attention)) as trace:
                state.update(trace)
            del trace  # or it would be held during the next pass
            with state.phases.phase(ENCODING):
                swapped_items = list(swapped(encoder, chosen, portion)) if state.answers else []
            if swapped_items:
                swapped_pass = traced(live, swapped_items, source, **trace_options, attention=attention)
                with passing(state.phases, swapped_pass) as trace:
                    state.update_answers(trace)
                del trace
        tick(len(stretch))
    state.phases[ANSWERING] += encoder.phases[ANSWERING]  # of the time that encoding took
    state.phases[ENCODING] -= encoder.phases[ANSWERING]
    finite.check(lambda number: f"example {ids[number]}")
    for name, method in {**state.methods, **state.answers}.items():
        check_state(name, method, method.state())
    return state


@contextmanager
def passing(phases: Phases, traced_pass: AbstractContextManager[Trace]) -> Iterator[Trace]:
    """The pass, with the seconds until its trace is there counted as PASSING."""
    with ExitStack() as stack:
        with phases.phase(PASSING):
            trace = stack.enter_context(traced_pass)
        yield trace


Side = tuple[str, str]
"""A source and a target."""


def stretches(portion: Sequence[Numbered], job: Job, batch_size: int) -> list[tuple[Side, Sequence[Numbered]]]:
    """A portion cut into stretches of a few batches, each of one source and target: sources in the job's order, words
    before pictures. The first stretch is a single batch, as the model is idle while it is encoded. Examples without
    media are in order of their length, so that those of any batch are about equally long; others keep their order, as a
    picture is opened once for all questions about it."""
    sides: dict[Side, list[Numbered]] = {}
    for number, example in sorted(portion, key=_characters):
        sides.setdefault((example.source, example.target), []).append((number, example))
    cut: list[tuple[Side, Sequence[Numbered]]] = []
    for side in sorted(sides, key=lambda side: (job.sources.index(side[0]), side[1] != TEXT_TARGET)):
        first = 0 if cut else batch_size
        cut += [
            (side, piece) for piece in (sides[side][:first], *batches(sides[side][first:], 4 * batch_size)) if piece
        ]
    return cut


def _characters(numbered: Numbered) -> int:
    """How long an example is, as far as that is known before it is encoded; 0 of one with media."""
    _, example = numbered
    return 0 if example.media else len(example.prompt) + len(example.answer or "")


def encoded(
    encoder: ExampleEncoder, cut: Sequence[tuple[Side, Sequence[Numbered]]], batch_size: int, phases: Phases
) -> Iterator[tuple[Side, Sequence[Numbered], list[Item]]]:
    """Each stretch with its items sorted by length.

    A second thread opens and encodes the next stretch's media while the model is at work, unless that needs a model:
    this one to answer them, or another to paint over parts of them.
    """
    with ThreadPoolExecutor(1) as pool:
        encoding: Future[list[Item]] | None = None
        try:
            for place, (side, stretch) in enumerate(cut):
                with phases.phase(ENCODING):
                    items = encoder.items(stretch, batch_size) if encoding is None else encoding.result()
                following = cut[place + 1][1] if place + 1 < len(cut) else ()
                ready = bool(following) and encoder.twins is None and all(e.answer is not None for _, e in following)
                ready = ready and side[1] == TEXT_TARGET  # drawing pictures also counts what is skipped
                encoding = pool.submit(encoder.items, following, batch_size) if ready else None
                yield side, stretch, shortest_first(items)
        except BaseException:
            encoder.stopped = True  # otherwise Ctrl-C would wait for a whole stretch
            raise


def write_portion(file: Path, state: State, encoder: ExampleEncoder, answers: Sequence[Response]) -> None:
    """Write the portion's state, its answers and what it skipped, under a temporary name first."""
    notes = {
        "pairs": state.pairs,
        "seconds": state.phases.rounded(),
        "skipped": encoder.skipped.plain(),
        "responses": [[r.example_id, r.generation, r.text, list(r.token_ids)] for r in answers],
    }
    tensors, text = state.tensors(), json.dumps(notes)
    metadata = {"notes": text, "sha256": _digest(tensors, text)}
    write_atomically(file, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def _digest(tensors: Mapping[str, torch.Tensor], notes: str) -> str:
    """The sha256 of everything in a portion, as safetensors does not notice a changed number."""
    hasher = hashlib.sha256(notes.encode())
    for key, value in sorted(tensors.items()):
        hasher.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def read_portion(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The tensors and notes of a portion, or None where the file is absent or damaged (it is then made again)."""
    try:
        with safe_open(file, "pt") as handle:
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            header = handle.metadata()
        intact = _digest(tensors, header["notes"]) == header["sha256"]
        return (tensors, json.loads(header["notes"])) if intact else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


@contextmanager
def note_stored_portions(folder: Path, examples: Sequence[Numbered]) -> Iterator[None]:
    """Add to an interrupt of the block how many examples have stored portions: "32 of 468"."""
    try:
        yield
    except KeyboardInterrupt as error:
        stored = (portion for i, portion in enumerate(portions(examples)) if (folder / f"{i:05d}.safetensors").exists())
        error.add_note(f"{sum(map(len, stored))} of {len(examples)}")
        raise


def map_all(
    live: LiveModel,
    encoder: ExampleEncoder,
    job: Job,
    execution: Execution,
    examples: Sequence[Numbered],
    folder: Path,
    progress: Progress,
) -> State:
    """Compute every portion that `folder` does not have yet; returns all of them merged."""
    total = State(job)
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, len(examples))

    for i, portion in enumerate(portions(examples)):
        file = folder / f"{i:05d}.safetensors"
        stored = read_portion(file)
        if stored is None:
            fresh = encoder.another()
            state = map_portion(live, fresh, job, execution, portion, tick)
            with total.phases.phase(WRITING):
                write_portion(file, state, fresh, fresh.made)
                stored = read_portion(file)
            assert stored is not None, f"{file} cannot be read back"
        else:
            tick(len(portion))
        tensors, notes = stored
        total.merge(tensors)
        total.pairs += notes["pairs"]
        total.phases.update(notes.get("seconds", {}))
        encoder.skipped.merge(notes["skipped"])
        for example_id, generation, text, ids in notes["responses"]:
            encoder.add(Response(example_id, generation, text, tuple(ids)))
    return total
