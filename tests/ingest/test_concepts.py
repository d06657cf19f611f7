"""Words to characters to tokens to positions."""

from __future__ import annotations

import random
from typing import Any

import pytest

from ingest.data.examples import Concept, Example, Mention
from ingest.data.targets import find_targets, mark_words, mention_spans, pattern, spans, tokens_of

CONCEPTS = {
    "dog": Concept("dog", ("dog", "dogs", "puppy")),
    "hot dog": Concept("hot dog", ("hot dog", "hot dogs")),
    "cat": Concept("cat", ("cat", "cats")),
}


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("A Dog and a dog", ["dog"], ["Dog", "dog"]),
        ("dogma, hotdog, dogs", ["dog"], []),
        ("dogma, hotdog, dogs", ["dog", "dogs"], ["dogs"]),
        ("a hot  dog", ["hot dog"], ["hot  dog"]),
        ("it barks.", ["barks"], ["barks"]),
        ("", ["dog"], []),
        ("a dog", [], []),
        ("c++ or c", ["c++"], ["c++"]),
        ("un café", ["café"], ["café"]),
        ("a hot-dog, a hot\u2010dog, a hot\u2011dog, a hot_dog", ["dog"], []),
        ("a hot-dog, a hot\u2010dog, a hot_dog", ["hot dog"], ["hot-dog", "hot\u2010dog", "hot_dog"]),
        ("a teddy-bear", ["bear"], []),
        ("a teddy-bear", ["teddy bear"], ["teddy-bear"]),
        ("dog-eared, man-made, bus-stop", ["dog", "man", "bus"], []),
        ("a dog - a cat -", ["dog", "cat"], ["dog", "cat"]),
        ("the dog's; dog, (dog) dog/cat", ["dog"], ["dog"] * 4),
        ("a t-shirt", ["t-shirt"], ["t-shirt"]),
    ],
)
def test_words_are_found_whole(text: str, words: list[str], found: list[str]) -> None:
    assert [text[a:b] for a, b in spans(text, words)] == found


def test_a_longer_concept_takes_its_words_from_a_shorter_one() -> None:
    text = "a hot dog and a dog"
    assert spans(text, ["dog"], ["hot dog", "dog"]) == [(16, 19)]
    assert spans(text, ["hot dog"], ["hot dog", "dog"]) == [(2, 9)]


def test_many_words_are_found_as_each_by_itself_would_be() -> None:
    """The longest of all words that begin at a place, against a search for every word alone."""
    rng = random.Random(0)
    for _ in range(300):
        words = {
            " ".join("".join(rng.choices("abA+", k=rng.randint(1, 3))) for _ in range(rng.randint(1, 3)))
            for _ in range(6)
        }
        text = "".join(rng.choices("abB+  -,", k=40))
        alone = [m.span() for word in words for m in pattern([word]).finditer(text)]
        wanted, at = [], 0
        while later := [span for span in alone if span[0] >= at]:
            start = min(later)[0]
            wanted.append(max(span for span in later if span[0] == start))
            at = wanted[-1][1]
        assert [m.span() for m in pattern(sorted(words)).finditer(text)] == wanted, (words, text)


def test_a_word_as_long_as_a_transcript() -> None:
    long = "word " * 2000
    assert spans(f"So: {long}", [long.strip()]) == [(4, 3 + len(long))]


def test_what_is_unlike_a_concept_is_no_mention_of_it() -> None:
    dog = Concept("dog", ("dog", "dogs"), unlike=("hot dog", "hot dogs"))
    assert mention_spans("two hot-dogs, a hot dog and a dog", Mention("dog"), {"dog": dog}) == [(30, 33)]
    assert mention_spans("it barks", Mention("dog", "barks"), {"dog": dog}) == [(3, 8)]


def test_marked_answers_show_another_concept_each() -> None:
    texts = [("a dog", "dog"), ("two dogs", "dog"), ("a cat here", "cat"), ("a hot dog", "hot dog"), ("it", "dog")]
    examples = [Example("text", "caption", "find", "?", text, (Mention(name),)) for text, name in texts]
    assert mark_words(examples, CONCEPTS, list(CONCEPTS), 9) == ["a [dog]", "a [cat] here", "a [hot dog]"]
    assert mark_words(examples, CONCEPTS, ["cat", "hot dog"], 1) == ["a [cat] here"]


def test_tokens_of_a_span() -> None:
    ends = [1, 5, 5, 9]  # the third token is the first half of a character that ends with the fourth
    assert tokens_of((2, 5), ends) == [1]
    assert tokens_of((5, 9), ends) == [3]
    assert tokens_of((0, 9), ends) == [0, 1, 2, 3]


def targets(live: Any, answer: str, mentions: tuple[Mention, ...], wanted: list[str], **rule: str) -> Any:
    ids = live.encoder.prompt("what is this ?", answer=answer).answer
    example = Example("text", "name", "find", "what is this ?", answer, mentions)
    decoded, ends = live.encoder.decode(ids), live.encoder.ends(ids)
    found = find_targets(example, decoded, ends, CONCEPTS, wanted, **rule)
    return [(t.concept, live.encoder.decode([ids[t.index]]).strip(), t.weight) for t in found]


def test_a_word_of_several_tokens_counts_with_all_of_them_or_the_first(llava: Any) -> None:
    mention = (Mention("dog"),)
    every = targets(llava, "a puppy", mention, ["dog"])
    assert "".join(piece for _, piece, _ in every) == "puppy" and len(every) > 1
    assert sum(weight for *_, weight in every) == pytest.approx(1)
    assert targets(llava, "a puppy", mention, ["dog"], tokens="first") == [("dog", every[0][1], 1.0)]


def test_the_first_occurrence_or_all_of_them(llava: Any) -> None:
    mention = (Mention("dog"),)
    assert targets(llava, "a dog and a dog", mention, ["dog"]) == [("dog", "dog", 1.0)]
    assert targets(llava, "a dog and a dog", mention, ["dog"], occurrences="all") == [("dog", "dog", 0.5)] * 2


def test_a_fact_stands_for_its_concept_and_what_is_not_wanted_or_not_said_is_left_out(llava: Any) -> None:
    assert targets(llava, "it barks", (Mention("dog", "barks"),), ["dog"])[0][0] == "dog"
    assert targets(llava, "it barks", (Mention("dog", "barks"),), ["cat"]) == []
    assert targets(llava, "it meows", (Mention("dog", "barks"),), ["dog"]) == []
    assert targets(llava, "a hot dog", (Mention("dog"), Mention("hot dog")), ["dog", "hot dog"])[0][0] == "hot dog"


def test_the_example_id_is_of_its_content() -> None:
    one = Example("image", "caption", "find", "describe", "a dog", (Mention("dog"),), ("1.jpg",))
    same = Example("image", "caption", "find", "describe", "a dog", (Mention("dog"),), ("1.jpg",))
    other = Example("image", "caption", "find", "describe", "a dog", (Mention("dog"),), ("2.jpg",))
    assert one.id == same.id != other.id and len(one.id) == 32
