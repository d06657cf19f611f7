"""Where a text example names its concept: in the prompt, so that the word is read, or in the answer, so that it is
written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ingest.data.examples import TEXT, Concept, Dataset, Example, Mention
from ingest.data.targets import mention_spans

PROMPT, ANSWER, BOTH = "prompt", "answer", "both"
WHERE_NAMED = (PROMPT, ANSWER, BOTH)
MOST = 4096
"""Examples of a concept and task that are looked through for those that name it: a generated world has no end."""


def is_named(example: Example, name: str, where: str, concepts: Mapping[str, Concept]) -> bool:
    """Whether the example's prompt, answer or both (`where`) have the concept's own name, or another form of it.

    An example about dogs that is answered "barks" does not name the dog in its answer.
    """
    plain = Mention(name)
    in_prompt = bool(mention_spans(example.prompt, plain, concepts))
    in_answer = example.answer is not None and bool(mention_spans(example.answer, plain, concepts))
    return {PROMPT: in_prompt, ANSWER: in_answer, BOTH: in_prompt and in_answer}[where]


def named_examples(
    dataset: Dataset,
    where: str,
    *,
    source: str,
    split: str,
    concepts: Sequence[str],
    tasks: Sequence[str],
    per_concept: int,
    seed: int,
) -> list[Example]:
    """`Dataset.examples` of those that name the concept there, at most `per_concept` of each concept and task, of the
    first MOST. Examples with media are all taken: there, the picture or the recording brings the concept."""
    if source != TEXT:
        return dataset.examples(
            source=source, split=split, concepts=concepts, tasks=tasks, per_concept=per_concept, seed=seed
        )
    kept: dict[str, Example] = {}
    for name in concepts:
        for task in tasks:
            which: dict[str, Any] = {
                "source": source,
                "split": split,
                "concepts": [name],
                "tasks": [task],
                "seed": seed,
            }
            looked_at = min(4 * per_concept, MOST)
            while True:
                examples = dataset.examples(per_concept=looked_at, **which)
                named = [example for example in examples if is_named(example, name, where, dataset.concepts)]
                if len(named) >= per_concept or len(examples) < looked_at or looked_at == MOST:
                    break
                looked_at = min(4 * looked_at, MOST)
            kept |= {example.id: example for example in named[:per_concept]}
    return list(kept.values())
