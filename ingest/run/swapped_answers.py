"""Every answer again after the prompt of another concept: the effect of its words alone, whatever is asked or shown.

Two sources explain the same words and so share neurons anyway: those that write the words, and those that see the
first of several. The maps of the swapped examples, stored as `METHOD.answer`, show how many (`atlas.stats.overlap`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

from atlas.live.encode import Prompt
from atlas.query.map_spec import ANSWER
from ingest.attribution.estimators import REGION, TEXT_TARGET, TWIN, Method, PairMethod
from ingest.attribution.item import Item
from ingest.data.examples import Example
from ingest.job import Job
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.resolve import methods


def answer_methods(job: Job) -> dict[str, Method]:
    """A second set of the job's concept methods, for swapped examples; empty where the job does not swap answers."""
    if not job.swap_answers:
        return {}
    built = methods(job)
    return {
        name_of_answers(n): m for n, m in built.items() if isinstance(m, PairMethod) and not m.needs & {TWIN, REGION}
    }


def name_of_answers(method: str) -> str:
    """The name under which a method scores swapped examples."""
    return f"{method}.{ANSWER}"


def swapped_counts(portion: Sequence[tuple[int, Example]]) -> Counter[str]:
    """By source, how many examples of a portion have another whose prompt `swapped` can take."""
    sides: dict[tuple[str, str], Counter[frozenset[str]]] = {}
    for _, example in portion:
        if example.target == TEXT_TARGET:
            names = frozenset(mention.concept for mention in example.mentions)
            sides.setdefault((example.source, example.task), Counter())[names] += 1
    counts: Counter[str] = Counter()
    for (source, _), by_names in sides.items():
        counts[source] += sum(n for names, n in by_names.items() if any(not names & others for others in by_names))
    return counts


def swapped(encoder: ExampleEncoder, items: Sequence[Item], portion: Sequence[tuple[int, Example]]) -> Iterator[Item]:
    """The items with their answers after other prompts, where the portion has one of the same source and task about
    other concepts.

    The choice depends on the portion and the item's number alone, so that it is the same for every batch size.
    """
    examples = dict(portion)
    for item in items:
        example = examples[item.number]
        names = {m.concept for m in example.mentions}
        others = [
            e
            for e in examples.values()
            if (e.source, e.task, e.target) == (example.source, example.task, TEXT_TARGET)
            and not names & {m.concept for m in e.mentions}
        ]
        if not others:
            continue
        draw = int(hashlib.sha256(f"swap {item.number}".encode()).hexdigest()[:15], 16)
        prompt = encoder.prompt(others[draw % len(others)])
        if prompt is not None:
            yield Item(
                item.number, Prompt(prompt.ids, item.prompt.answer, prompt.extras), item.targets, {}, example.cluster
            )
