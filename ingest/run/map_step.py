"""The map step: examples in fixed portions, each portion's state in one file, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
from ingest.attribution.trace import ATTENTION, Item, Trace, shortest_first, traced
from ingest.data.examples import Example
from ingest.draw.drawings import Drawings
from ingest.draw.image_trace import drawn
from ingest.job import Execution, Job
from ingest.run.encode_examples import ExampleEncoder, Response, batches
from ingest.run.resolve import methods
from ingest.run.swapped_answers import answer_methods, swapped

Numbered = tuple[int, Example]
Progress = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""


class State:
    """What a run accumulates: every method's sums and the exemplars."""

    def __init__(self, job: Job):
        self.methods = methods(job)
        self.answers = answer_methods(job)
        self.exemplars = Exemplars(job.exemplars)
        self.pairs = 0  # (example, concept) pairs seen

    def update(self, trace: Trace) -> None:
        """Let every method that can read a batch's trace."""
        for method in self.methods.values():
            if trace.target in method.targets and (method.sources is None or trace.source in method.sources):
                method.update(trace)
        if trace.target == TEXT_TARGET:
            self.exemplars.update(trace)
        self.pairs += len(trace.concepts)

    def update_answers(self, trace: Trace) -> None:
        """Let the methods of swapped examples read a batch's trace."""
        for method in self.answers.values():
            if method.sources is None or trace.source in method.sources:
                method.update(trace)

    def parts(self) -> dict[str, Method | Exemplars]:
        return {**self.methods, **self.answers, "*exemplars": self.exemplars}

    def tensors(self) -> dict[str, torch.Tensor]:
        flat = {f"{part}/{key}": value for part, s in self.parts().items() for key, value in s.state().items()}
        return {key: value.contiguous() for key, value in flat.items()}

    def merge(self, tensors: dict[str, torch.Tensor]) -> None:
        for part, holder in self.parts().items():
            mine = {k.partition("/")[2]: v for k, v in tensors.items() if k.partition("/")[0] == part}
            holder.merge(mine)


def portions(examples: Sequence[Numbered]) -> list[Sequence[Numbered]]:
    """At most 16 portions of at least 64 examples, or of 8 where pictures are drawn, each of which may take minutes:
    a function of the examples alone, so that a resumed run cuts them as the interrupted one did."""
    least = 8 if any(example.target == IMAGE_TARGET for _, example in examples) else 64
    return list(batches(examples, max(least, math.ceil(len(examples) / 16))))


def map_portion(
    live: LiveModel,
    feed: ExampleEncoder,
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
    how: dict[str, Any] = {"layers": layers, "tap": job.tap, "grad": grad, "later": finite}
    drawings = Drawings(live, feed.dataset, job) if any(e.target == IMAGE_TARGET for _, e in portion) else None
    cut = stretches(portion, job, execution.batch_size)
    for (source, target), some, items in encoded(feed, cut, execution.batch_size):
        for chosen in batches(items, execution.batch_size):
            if target == IMAGE_TARGET:
                assert drawings is not None
                with drawn(live, chosen, source, drawings, **how) as (picture, missing):
                    feed.skipped.unplaced.update(missing)
                    if picture is not None:
                        state.update(picture)
                continue
            with traced(live, chosen, source, **how, attention=attention) as trace:
                state.update(trace)
            others = list(swapped(feed, chosen, portion)) if state.answers else []
            if others:
                with traced(live, others, source, **how, attention=attention) as trace:
                    state.update_answers(trace)
        tick(len(some))
    finite.check(lambda number: f"example {ids[number]}")
    for name, method in {**state.methods, **state.answers}.items():
        check_state(name, method, method.state())
    return state


Side = tuple[str, str]
"""A source and a target."""


def stretches(portion: Sequence[Numbered], job: Job, batch_size: int) -> list[tuple[Side, Sequence[Numbered]]]:
    """A portion cut into a few batches of one source and target at a time: sources in the job's order, words before
    pictures. The very first is one batch, as the model has nothing to do while it is encoded."""
    sides: dict[Side, list[Numbered]] = {}
    for number, example in portion:
        sides.setdefault((example.source, example.target), []).append((number, example))
    found: list[tuple[Side, Sequence[Numbered]]] = []
    for side in sorted(sides, key=lambda side: (job.sources.index(side[0]), side[1] != TEXT_TARGET)):
        first = 0 if found else batch_size
        found += [(side, some) for some in (sides[side][:first], *batches(sides[side][first:], 4 * batch_size)) if some]
    return found


def encoded(
    feed: ExampleEncoder, cut: Sequence[tuple[Side, Sequence[Numbered]]], batch_size: int
) -> Iterator[tuple[Side, Sequence[Numbered], list[Item]]]:
    """Each stretch with its items by length.

    The next one's media are opened and encoded by a second thread while the model is at work, unless a model has to do
    with them: this one answers them, or another paints over parts of them.
    """
    with ThreadPoolExecutor(1) as pool:
        begun: Future[list[Item]] | None = None
        try:
            for place, (side, some) in enumerate(cut):
                items = feed.items(some, batch_size) if begun is None else begun.result()
                following = cut[place + 1][1] if place + 1 < len(cut) else ()
                ready = bool(following) and feed.twins is None and all(e.answer is not None for _, e in following)
                ready = ready and side[1] == TEXT_TARGET  # where pictures are drawn, more is skipped meanwhile
                begun = pool.submit(feed.items, following, batch_size) if ready else None
                yield side, some, shortest_first(items)
        except BaseException:
            feed.stopped = True  # or Ctrl-C would wait for a whole stretch
            raise


def write_portion(file: Path, state: State, feed: ExampleEncoder, made: Sequence[Response]) -> None:
    """The portion's state, its responses and what it skipped, under a temporary name and then renamed."""
    notes = {
        "pairs": state.pairs,
        "skipped": feed.skipped.plain(),
        "responses": [[r.example_id, r.generation, r.text, list(r.token_ids)] for r in made],
    }
    tensors, text = state.tensors(), json.dumps(notes)
    metadata = {"notes": text, "sha256": _digest(tensors, text)}
    write_atomically(file, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def _digest(tensors: Mapping[str, torch.Tensor], notes: str) -> str:
    """The sha256 of everything in a portion: safetensors notices no changed number."""
    found = hashlib.sha256(notes.encode())
    for key, value in sorted(tensors.items()):
        found.update(json.dumps([key, str(value.dtype), list(value.shape)]).encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_portion(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """What `write_portion` wrote, or None where the file is absent or damaged (the portion is then done again)."""
    try:
        with safe_open(file, "pt") as handle:
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
            said = handle.metadata()
        whole = _digest(tensors, said["notes"]) == said["sha256"]
        return (tensors, json.loads(said["notes"])) if whole else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


@contextmanager
def note_stored_portions(folder: Path, examples: Sequence[Numbered]) -> Iterator[None]:
    """Note on an interrupt of the block of how many examples the portions are stored: "32 of 468"."""
    try:
        yield
    except KeyboardInterrupt as error:
        done = (some for i, some in enumerate(portions(examples)) if (folder / f"{i:05d}.safetensors").exists())
        error.add_note(f"{sum(map(len, done))} of {len(examples)}")
        raise


def map_all(
    live: LiveModel,
    feed: ExampleEncoder,
    job: Job,
    execution: Execution,
    examples: Sequence[Numbered],
    folder: Path,
    progress: Progress,
) -> State:
    """Every portion that `folder` does not have yet, then all of them merged."""
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
            fresh = ExampleEncoder(live, feed.dataset, job, bad_media=feed.bad_media, responses=feed.responses)
            state = map_portion(live, fresh, job, execution, portion, tick)
            write_portion(file, state, fresh, fresh.made)
            stored = read_portion(file)
            assert stored is not None, f"{file} cannot be read back"
        else:
            tick(len(portion))
        tensors, notes = stored
        total.merge(tensors)
        total.pairs += notes["pairs"]
        feed.skipped.merge(notes["skipped"])
        for example_id, generation, text, ids in notes["responses"]:
            feed.add(Response(example_id, generation, text, tuple(ids)))
    return total
