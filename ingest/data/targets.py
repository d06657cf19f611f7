"""Words to tokens to positions: which position of the forward pass predicts which token of which concept.

The rule, recorded in every run: a concept's words (the mention's own words, or any of the concept's surface forms) are
found in the answer at word boundaries, in any case, with spaces or hyphens between their parts; a word joined to
another by a hyphen is a different word ("dog-eared"). Of several occurrences the first counts, or all; of a word's
tokens all count, or the first. The position of a token is the one that predicts it, one before the token itself. Every
(example, concept) pair has weight 1, shared equally by its occurrences and then by their tokens.
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
"""The concept of an example that shows none of the job's: concepts are contrasted with it as well as each other."""


@dataclass(frozen=True, slots=True)
class Target:
    """One token to explain. index: its position among the answer's tokens. weight: its share of the pair's weight."""

    concept: str
    index: int
    weight: float


END = ""
"""The key that marks the end of a word in a tree of words."""
HYPHENS = "\u2010\u2011-"  # the plain one last, as elsewhere in a character class it would make a range


def pattern(words: Sequence[str]) -> re.Pattern[str]:
    """A pattern for any of the words, as whole words, longest first ("hot dog" before "dog")."""
    return _pattern(tuple(words))


@lru_cache(maxsize=4096)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """The same, as a tree of characters: thousands of alternatives would each be tried at every position of a text."""
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
    """A tree as a regular expression; continuations come before endings, so that the longest word is found."""
    chain = ""
    while len(node) == 1 and END not in node:
        [(character, node)] = node.items()
        chain += character
    options = [character + _branches(rest) for character, rest in node.items() if character != END]
    if not options:
        return chain
    return f"{chain}(?:{'|'.join(options)}){'?' if END in node else ''}"


def spans(text: str, words: Sequence[str], others: Sequence[str] = ()) -> list[tuple[int, int]]:
    """Character ranges of the words in the text, in order.

    A range inside a longer phrase of `others` does not count: "hot dog" does not mention dog where hot dog is a concept
    of its own."""
    matches = [m.span() for m in pattern(words).finditer(text)] if words else []
    longer = [w for w in others if " " in w and w not in words]
    longer_matches = [m.span() for m in pattern(longer).finditer(text)] if longer else []
    return [s for s in matches if not any(a <= s[0] and s[1] <= b and b - a > s[1] - s[0] for a, b in longer_matches)]


def mention_spans(text: str, mention: Mention, concepts: Mapping[str, Concept]) -> list[tuple[int, int]]:
    """Character ranges of the words that stand for a mention's concept, in order.

    The mention's own words where it has any; else the concept's forms, except inside longer forms of other concepts or
    the concept's `unlike` phrases.
    """
    if mention.words is not None:
        return spans(text, [mention.words], [form for concept in concepts.values() for form in concept.forms])
    concept = concepts[mention.concept]
    others = [form for another in concepts.values() if another is not concept for form in another.forms]
    return spans(text, concept.forms, [*others, *concept.unlike])


def mark_words(
    examples: Sequence[Example], concepts: Mapping[str, Concept], names: Sequence[str], limit: int
) -> list[str]:
    """At most `limit` reference answers, each for another concept, with the words for it in brackets: what a job would
    explain, to be read before it is run.

    >>> dog, example = Concept("dog", ("dog",)), Example("text", "caption", "find", "?", "a dog", (Mention("dog"),))
    >>> mark_words([example], {"dog": dog}, ["dog"], 3)
    ['a [dog]']
    """
    marked: dict[str, str] = {}
    for example in examples:
        for mention in example.mentions:
            if example.answer is None or mention.concept not in names or mention.concept in marked:
                continue
            if word_spans := mention_spans(example.answer, mention, concepts):
                (start, end), text = word_spans[0], example.answer
                marked[mention.concept] = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return list(marked.values())[:limit]


def tokens_of(span: tuple[int, int], ends: Sequence[int]) -> list[int]:
    """The tokens that a character range covers; `ends[i]` is where token i's text ends."""
    starts = [0, *ends[:-1]]
    return [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < span[1] and b > span[0]]


def negative_targets(count: int) -> list[Target]:
    """The targets of an answer of `count` tokens that concerns none of the concepts: all its tokens, for NONE."""
    return [Target(NONE, i, 1 / count) for i in range(count)]


def find_targets(
    example: Example,
    answer: str,
    ends: Sequence[int],
    concepts: Mapping[str, Concept],
    names: Sequence[str],
    *,
    occurrences: str = "first",
    tokens: str = "all",
) -> list[Target]:
    """The tokens of `answer` that stand for each concept of `names` that the example mentions.

    A concept whose words are not in the answer has none. answer, ends: the answer's text, and where each of its tokens
    ends in it.
    """
    targets: list[Target] = []
    for mention in example.mentions:
        if mention.concept not in names:
            continue
        token_groups = [tokens_of(s, ends) for s in mention_spans(answer, mention, concepts)]
        token_groups = [f for f in token_groups if f][: 1 if occurrences == "first" else None]
        if tokens == "first":
            token_groups = [f[:1] for f in token_groups]
        for group in token_groups:
            targets += [Target(mention.concept, i, 1 / len(token_groups) / len(group)) for i in group]
    return targets
