"""Word swaps as data: prompts whose answer says one word, with the answer that should replace it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from atlas.errors import UsageError
from atlas.live.encode import Encoder, Prompt
from atlas.live.model import LiveModel
from atlas.neurons import PRODUCT
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import traced
from ingest.data.examples import Example
from ingest.data.targets import Target, spans, tokens_of
from ingest.run.encode_examples import ExampleEncoder, batches


@dataclass(frozen=True, slots=True)
class Swap:
    """A word to replace. said: the word that the model says. wanted: what it should say there; None: no longer say
    it."""

    said: str
    wanted: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "said", self.said.strip())
        object.__setattr__(self, "wanted", None if self.wanted is None else self.wanted.strip())
        if not self.said or self.wanted == "":
            raise UsageError("a word to swap is empty; write [[word=dog]] [[to=cat]], or [[word=dog]] alone")
        if self.wanted is not None and self.said.lower() == self.wanted.lower():
            raise UsageError(f"'{self.said}' would become itself; give another [[to]]")


@dataclass(frozen=True, slots=True)
class SwapCase:
    """One prompt whose answer should change.

    number: its place among the examples. said: with the answer as it is. wanted: with the answer as it should be (the
    same for a word that should only disappear). said_at: which of the answer's tokens are the word's first occurrence.
    wanted_at: those of every occurrence of the replacement (of a word that should disappear, its first tokens).
    Both begin where another word could begin: with the space before the word, where that is a token by itself.
    """

    number: int
    said: Prompt
    wanted: Prompt
    said_at: tuple[int, ...]
    wanted_at: tuple[int, ...]

    def item(self, *, original: bool = False) -> Item:
        """The case as an item to trace, with its word's tokens as targets of equal weight."""
        at = self.said_at if original else self.wanted_at
        targets = tuple(Target("", i, 1 / len(at)) for i in at)
        return Item(self.number, self.said if original else self.wanted, targets)


def check_words(encoder: Encoder, swap: Swap) -> None:
    """Raise UsageError where the tokenizer does not know a word."""
    tokenizer = encoder.tokenizer
    for word in (swap.said, swap.wanted):
        if word is None:
            continue
        ids = tokenizer(word, add_special_tokens=False).input_ids
        if not ids or tokenizer.unk_token_id in ids:
            raise UsageError(f"the model's tokenizer does not know '{word}'; write it in the tokenizer's script")


def words_at(encoder: Encoder, prompt: Prompt, word: str) -> list[tuple[int, ...]]:
    """The indices of a word's tokens in the answer, for each occurrence."""
    ends = encoder.ends(prompt.answer)
    return [tuple(tokens_of(span, ends)) for span in spans(encoder.decode(prompt.answer), [word])]


def with_blank_prefix(encoder: Encoder, prompt: Prompt, at: tuple[int, ...]) -> tuple[int, ...]:
    """A word's tokens with those before it that are blank by themselves: a space, the first bytes of a character."""
    first, special = at[0], set(encoder.tokenizer.all_special_ids)
    ends = [0, *encoder.ends(prompt.answer)]
    text = encoder.decode(prompt.answer)
    while first and prompt.answer[first - 1] not in special and not text[ends[first - 1] : ends[first]].strip():
        first -= 1
    return (*range(first, at[0]), *at)


def make_cases(
    example_encoder: ExampleEncoder, examples: Sequence[tuple[int, Example]], swap: Swap, batch_size: int
) -> list[SwapCase]:
    """The examples whose answer (the reference, else the model's own) has the word; all its occurrences change."""
    check_words(example_encoder.live.encoder, swap)
    cases = []
    for number, example, prompt in example_encoder.answered(examples, batch_size):
        case = _case(example_encoder, number, example, prompt, swap)
        if case is not None:
            cases.append(case)
    return cases


def _case(example_encoder: ExampleEncoder, number: int, example: Example, said: Prompt, swap: Swap) -> SwapCase | None:
    encoder = example_encoder.live.encoder
    occurrences = words_at(encoder, said, swap.said)
    if not occurrences or not all(occurrences):
        return None
    if swap.wanted is None:  # a word that never begins is never said
        return SwapCase(
            number,
            said,
            said,
            with_blank_prefix(encoder, said, occurrences[0]),
            tuple(tokens[0] for tokens in occurrences),
        )
    text, places = replace_word(encoder.decode(said.answer).strip(), swap.said, swap.wanted)
    wanted = example_encoder.prompt(replace(example, answer=text))
    assert wanted is not None, "a picture that opened once opens again"
    new_occurrences = words_at(encoder, wanted, swap.wanted)
    if len(new_occurrences) <= places[-1] or not all(new_occurrences):
        return None  # the tokenizer splits the word differently here
    tokens = (with_blank_prefix(encoder, wanted, new_occurrences[place]) for place in places)
    return SwapCase(
        number,
        said,
        wanted,
        with_blank_prefix(encoder, said, occurrences[0]),
        tuple(token for word_tokens in tokens for token in word_tokens),
    )


def replace_word(text: str, word: str, replacement: str) -> tuple[str, list[int]]:
    """The text with every occurrence of a word replaced, and which occurrences of the replacement these are."""
    replaced, places, last = "", [], 0
    for first, end in spans(text, [word]):
        replaced += text[last:first]
        places.append(len(spans(replaced, [replacement])))
        replaced, last = replaced + replacement, end
    return replaced + text[last:], places


def spoken_cases(live: LiveModel, cases: Sequence[SwapCase], batch_size: int) -> list[SwapCase]:
    """The cases in which the model says the word: each of its tokens is the model's first choice."""
    ordered = shortest_first([case.item(original=True) for case in cases])
    spoken: set[int] = set()
    for chunk in batches(ordered, batch_size):
        with traced(live, chunk, "", layers=[], tap=PRODUCT, grad=False) as trace:
            missed, _ = trace.verdicts()
        spoken |= {chunk[row].number for row, m in zip(trace.pairs.tolist(), missed.tolist(), strict=True) if m == 0}
    return [case for case in cases if case.number in spoken]
