"""Words to tokens to positions: which position of the forward pass predicts which token of which concept.

The rule, recorded in every run: a concept's words (the mention's own words, or any of the concept's surface
forms) are found in the answer at word boundaries, whatever their case; of several occurrences the first counts,
or all; a word of several tokens counts with all of its tokens, or the first. The position of a token is the one
that predicts it, one before the token itself. Every (example, concept) pair has weight 1, shared equally by
its occurrences and then by their tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingest.examples import Concept, Example

OCCURRENCES = ("first", "all")
TOKENS = ("all", "first")
MENTIONS = ("shown", "vocabulary")
NONE = ""
"""The concept of an example that shows none of the job's: what concepts are contrasted with beside each other."""


@dataclass(frozen=True, slots=True)
class Target:
    """One token to explain. index: its place among the answer's tokens. weight: its share of the pair."""

    concept: str
    index: int
    weight: float


def pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Any of the words, as whole words, longest first ("hot dog" before "dog")."""
    longest = sorted(set(words), key=lambda w: (-len(w), w))
    inner = "|".join(r"\s+".join(re.escape(part) for part in word.split()) for word in longest)
    return re.compile(rf"(?<!\w)(?:{inner})(?!\w)", re.IGNORECASE)


def spans(text: str, words: Sequence[str], others: Sequence[str] = ()) -> list[tuple[int, int]]:
    """Character ranges of the words in the text, in order. A range inside a longer word of `others` does not
    count: "hot dog" is no mention of dog where hot dog is a concept of its own."""
    found = [m.span() for m in pattern(words).finditer(text)] if words else []
    longer = [w for w in others if " " in w and w not in words]
    taken = [m.span() for m in pattern(longer).finditer(text)] if longer else []
    return [s for s in found if not any(a <= s[0] and s[1] <= b and b - a > s[1] - s[0] for a, b in taken)]


def tokens_of(span: tuple[int, int], ends: Sequence[int]) -> list[int]:
    """Which tokens a character range covers; `ends[i]` is where token i's text ends."""
    starts = [0, *ends[:-1]]
    return [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < span[1] and b > span[0]]


def negative_targets(count: int) -> list[Target]:
    """An answer of `count` tokens that concerns none of the concepts: every one of its tokens, of concept NONE."""
    return [Target(NONE, i, 1 / count) for i in range(count)]


def find_targets(
    example: Example,
    answer: str,
    ends: Sequence[int],
    concepts: Mapping[str, Concept],
    wanted: Sequence[str],
    *,
    occurrences: str = "first",
    tokens: str = "all",
) -> list[Target]:
    """The tokens of `answer` that stand for each wanted concept the example mentions.

    A concept whose words are not in the answer gives none. answer, ends: the answer's text and where each
    of its tokens ends in it.
    """
    targets: list[Target] = []
    every_form = [form for concept in concepts.values() for form in concept.forms]
    for mention in example.mentions:
        if mention.concept not in wanted:
            continue
        words = [mention.words] if mention.words is not None else list(concepts[mention.concept].forms)
        found = [tokens_of(s, ends) for s in spans(answer, words, every_form)]
        found = [f for f in found if f][: 1 if occurrences == "first" else None]
        if tokens == "first":
            found = [f[:1] for f in found]
        for where in found:
            targets += [Target(mention.concept, i, 1 / len(found) / len(where)) for i in where]
    return targets
