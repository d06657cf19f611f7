"""What the live page asks of the model: an answer, and which neurons contributed to a word of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, Neuron
from cli.text import visible
from cli.web import links
from cli.web.live_changes import LiveChange, changed
from cli.web.live_worker import Loaded

if TYPE_CHECKING:
    from atlas.live.encode import Prompt
    from atlas.live.media import Medium

MOST_TOKENS = 200
"""Of an answer."""

MOST_CHARACTERS = 20_000
"""Of a prompt."""

TOP = 20
"""Neurons that are listed for a word."""

METHOD = "contribution"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the model is asked. source: of the media, as methods name it."""

    prompt: str
    source: str
    media: tuple[Medium, ...]
    changes: Sequence[LiveChange] = ()

    def encoded(self, loaded: Loaded) -> Prompt:
        """The prompt as the model reads it."""
        return loaded.live.encoder.prompt(self.prompt, self.media)


def prompt_of(content: Mapping[str, Any]) -> str:
    """The words that are asked.

    Raises:
        UsageError: they are no text, or too long.
    """
    prompt = content.get("prompt", "")
    if not isinstance(prompt, str) or len(prompt) > MOST_CHARACTERS:
        raise UsageError(f"[[prompt]] is a text of at most {MOST_CHARACTERS:,} characters")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise UsageError("[[prompt]] has half a character (a lone surrogate)")
    return prompt


def number_of(content: Mapping[str, Any], name: str, most: int, default: int) -> int:
    """A whole number from 1.

    Raises:
        UsageError: it is none, or above `most`.
    """
    number = content.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
        raise UsageError(f"[[{name}]] is a whole number from 1 to {most}")
    return number


def ids_of(content: Mapping[str, Any], name: str) -> list[int]:
    """A list of whole numbers from 0.

    Raises:
        UsageError: it is none, or is empty or too long.
    """
    ids = content.get(name)
    if not isinstance(ids, list) or not 1 <= len(ids) <= MOST_TOKENS:
        raise UsageError(f"[[{name}]] is a list of 1 to {MOST_TOKENS} numbers")
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in ids):
        raise UsageError(f"[[{name}]] is a list of whole numbers from 0")
    return ids


def answer(loaded: Loaded, asked: Asked, tokens: int, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The greedy answer: its text, its token ids, and its words, each with the numbers of its tokens."""
    live = loaded.live
    with changed(live, asked.changes):
        [ids] = live.generate([asked.encoded(loaded)], max_new_tokens=tokens)
    text = live.encoder.decode(ids)
    return {
        "answer": visible(text.strip(), keep="\n\t"),
        "ids": ids,
        "words": words_of(text, live.encoder.ends(ids)),
        "cut": len(ids) >= tokens,
        "notes": list(dict.fromkeys(notes)),
    }


def words_of(text: str, ends: Sequence[int]) -> list[dict[str, Any]]:
    """The words of a text, each with the tokens that it is made of.

    >>> words_of("a dog.", [1, 3, 5, 6])
    [{'text': 'a', 'tokens': [0]}, {'text': 'dog.', 'tokens': [1, 2, 3]}]
    """
    from ingest.data.targets import tokens_of

    return [{"text": visible(found[0]), "tokens": tokens_of(found.span(), ends)} for found in re.finditer(r"\S+", text)]


def contributions(loaded: Loaded, asked: Asked, ids: Sequence[int], tokens: Sequence[int], top: int) -> dict[str, Any]:
    """The neurons that contributed most to some tokens of an answer, by the method `contribution`, best first.

    ids: of the answer. tokens: numbers of tokens in it, which count alike.

    Raises:
        UsageError: a number or an id that there is not.
    """
    import torch

    import ingest.methods
    from atlas import registry
    from atlas.neurons import PRODUCT
    from ingest.attribution.item import Item
    from ingest.attribution.trace import traced
    from ingest.data.targets import NONE, Target

    live = loaded.live
    if max(ids) >= live.layout.vocabulary:
        raise UsageError(f"the model has {live.layout.vocabulary:,} tokens, and [[ids]] has {max(ids):,}")
    if max(tokens) >= len(ids):
        raise UsageError(f"the answer has {len(ids)} tokens, and [[tokens]] has {max(tokens)}")
    chosen = sorted(set(tokens))
    targets = tuple(Target(NONE, token, 1 / len(chosen)) for token in chosen)
    item = Item(0, asked.encoded(loaded).answered(ids), targets)
    method = registry.load(ingest.methods, METHOD).build()
    with (
        changed(live, asked.changes),
        traced(live, [item], asked.source, layers=None, tap=PRODUCT, grad=False) as trace,
    ):
        scores: torch.Tensor = method.scores(trace)[""][:, 0].float().cpu()
        values = trace.to_pairs(trace.targeted)[0].float().cpu()
    best = scores.flatten().topk(min(top, scores.numel()))
    rows = []
    for place, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        layer, index = divmod(place, scores.shape[1])
        rows.append((Neuron(LANGUAGE, layer, index), score, values[layer, index].item()))
    word = live.encoder.decode([ids[token] for token in chosen]).strip()
    return {"word": visible(word), "method": METHOD, "neurons": scores.numel(), "rows": rows}


def described_rows(path: Path, loaded: Loaded, found: Mapping[str, Any]) -> dict[str, Any]:
    """What `contributions` found, with the tokens that each neuron raises, and where it has a page."""
    from ingest.requests.heatmap_model import decoded_tokens

    tokens = decoded_tokens(path, loaded.stored, [neuron for neuron, _, _ in found["rows"]])
    rows = [
        {
            "neuron": str(neuron),
            "link": links.neuron(loaded.stored.name, neuron),
            "score": score,
            "value": value,
            "tokens": [visible(token) for token in tokens[neuron]],
        }
        for neuron, score, value in found["rows"]
    ]
    return {**found, "rows": rows}
