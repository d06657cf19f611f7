"""Words to tokens to positions: which position of the forward pass predicts which token of which concept.

The rule, recorded in every run: a concept's words (the mention's own words, or any of the concept's surface
forms) are found in the answer at word boundaries, whatever their case, with spaces or hyphens between their parts; a
word that a hyphen joins to another is another word ("dog-eared"). Of several occurrences the first counts, or all; a
word of several tokens counts with all of its tokens, or the first. The position of a token is the one that predicts
it, one before the token itself. Every (example, concept) pair has weight 1, shared equally by its occurrences and then
by their tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ingest.data.examples import Concept, Example, Mention

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


END = ""
"""What ends a word in a tree of words."""
HYPHENS = "\u2010\u2011-"  # the plain one last, as in a class of characters it would make a range


def pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Any of the words, as whole words, longest first ("hot dog" before "dog")."""
    return _pattern(tuple(words))


@lru_cache(maxsize=4096)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """As a tree of characters, since thousands of alternatives would each be tried at every place of a text."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for place, part in enumerate(word.split()):
            for character in ([f"[\\s_{HYPHENS}]+"] if place else []) + [re.escape(_small(c)) for c in part]:
                node = node.setdefault(character, {})
        node[END] = {}
    inner = _branches(tree)
    return re.compile(rf"(?<!\w)(?<!\w[{HYPHENS}])(?:{inner})(?!\w)(?![{HYPHENS}]\w)", re.IGNORECASE)


def _small(character: str) -> str:
    return character.lower() if len(character.lower()) == 1 else character


def _branches(node: Mapping[str, Any]) -> str:
    """A tree as an expression: what goes on comes before what ends, so that the longest is found."""
    chain = ""
    while len(node) == 1 and END not in node:
        [(character, node)] = node.items()
        chain += character
    options = [character + _branches(rest) for character, rest in node.items() if character != END]
    if not options:
        return chain
    return f"{chain}(?:{'|'.join(options)}){'?' if END in node else ''}"


def spans(text: str, words: Sequence[str], others: Sequence[str] = ()) -> list[tuple[int, int]]:
    """Character ranges of the words in the text, in order. A range inside a longer phrase of `others` does not
    count: "hot dog" is not a mention of dog where hot dog is a concept of its own."""
    found = [m.span() for m in pattern(words).finditer(text)] if words else []
    longer = [w for w in others if " " in w and w not in words]
    taken = [m.span() for m in pattern(longer).finditer(text)] if longer else []
    return [s for s in found if not any(a <= s[0] and s[1] <= b and b - a > s[1] - s[0] for a, b in taken)]


def mention_spans(text: str, mention: Mention, concepts: Mapping[str, Concept]) -> list[tuple[int, int]]:
    """Character ranges of the words that stand for a mention's concept, in order.

    Its own words where it has any; else the concept's forms, outside the forms of other concepts and what is unlike it.
    """
    if mention.words is not None:
        return spans(text, [mention.words], [form for concept in concepts.values() for form in concept.forms])
    concept = concepts[mention.concept]
    others = [form for other in concepts.values() if other is not concept for form in other.forms]
    return spans(text, concept.forms, [*others, *concept.unlike])


def mark_words(
    examples: Sequence[Example], concepts: Mapping[str, Concept], wanted: Sequence[str], most: int
) -> list[str]:
    """Reference answers with the words in brackets that stand for a concept, another concept each as long as there
    are any: what a job would look at, to be read before it is run.

    >>> dog, example = Concept("dog", ("dog",)), Example("text", "caption", "find", "?", "a dog", (Mention("dog"),))
    >>> marked([example], {"dog": dog}, ["dog"], 3)
    ['a [dog]']
    """
    found: dict[str, str] = {}
    for example in examples:
        for mention in example.mentions:
            if example.answer is None or mention.concept not in wanted or mention.concept in found:
                continue
            if where := mention_spans(example.answer, mention, concepts):
                (start, end), text = where[0], example.answer
                found[mention.concept] = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return list(found.values())[:most]


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
    for mention in example.mentions:
        if mention.concept not in wanted:
            continue
        found = [tokens_of(s, ends) for s in mention_spans(answer, mention, concepts)]
        found = [f for f in found if f][: 1 if occurrences == "first" else None]
        if tokens == "first":
            found = [f[:1] for f in found]
        for where in found:
            targets += [Target(mention.concept, i, 1 / len(found) / len(where)) for i in where]
    return targets
