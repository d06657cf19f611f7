"""Metrics of questions, choices, labels and speech, each against an independent reference."""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import one, values

from atlas.errors import UsageError
from ingest.metrics.vqa import normalised


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("  The Dog.\n", "dog"),
        ("two dogs, a cat & an apple", "2 dogs cat & apple"),
        ("None", "0"),
        ("Ten", "10"),
        ("3.5 m", "3.5 m"),
        ("1,000", "1000"),
        ("yes, no", "yes no"),
        ("red/blue", "red blue"),
        ("well-known", "well known"),
        ("dont", "don't"),
        ("it's John's", "it's john's"),
        ("theyre couldntve whats yall'll", "they're couldntve what's y'all'll"),
        ("couldnt've twas", "couldn't've 'twas"),
        ("were well", "were well"),
        ("a", ""),
        ("U.S.A.", "usa"),
        ("what?!", "what"),
    ],
)
def test_vqa_answers_are_normalised_as_officially(said: str, meant: str) -> None:
    assert normalised(said) == meant


@pytest.mark.parametrize(("same", "worth"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_of_ten_people(same: int, worth: float) -> None:
    """The published values: the mean over the ten sets of nine."""
    people = ["the Dog"] * same + ["cat"] * (10 - same)
    random.Random(same).shuffle(people)
    assert values(one("vqa"), ("dog.", people)) == pytest.approx([worth])


def test_vqa_of_fewer_people() -> None:
    metric = one("vqa")
    assert values(metric, ("2", ["two"]), ("3", ["two"]), ("a cat", ["cat", "cat"])) == [1.0, 0.0, 1.0]
    assert values(metric, ("cat", ["cat", "dog"]), ("cat", ["cat", "cat", "dog"])) == pytest.approx([0.5, 2 / 3])


def test_any_answer_in_the_reply() -> None:
    found = values(
        one("vqa_any"),
        ("It is a DOGHOUSE.", ["cat", "dog"]),
        ("It is a house.", ["dog", "House"]),
        ("It is", ["dog"]),
        ("", ["dog"]),
        ("anything", ["", " "]),
    )
    assert found == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_label_in_the_reply() -> None:
    found = values(
        one("label"),
        ("The sound is throat clearing.", ["Throat clearing"]),
        ("2. Sigh", ["Sigh"]),
        ("a cough", ["Sneeze"]),
    )
    assert found == [1.0, 1.0, 0.0]


def test_the_first_letter() -> None:
    metric = one("multiple_choice")
    found = values(
        metric, ("B", ["B"]), ("\n b) because", ["B"]), ("The answer is B", ["B"]), ("", ["A"]), ("a", ["A"])
    )
    assert found == [1.0, 1.0, 0.0, 0.0, 1.0]
    with pytest.raises(UsageError, match="references of one letter, not 'dog'"):
        values(metric, ("d", ["dog"]))


def test_the_whole_answer() -> None:
    metric = one("exact")
    assert values(metric, (" Dog\n", ["cat", "dog"]), ("a dog", ["dog"]), ("dog.", ["dog"])) == [1.0, 0.0, 0.0]


def edits(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    @cache
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        changed = between(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(changed, between(i - 1, j) + 1, between(i, j - 1) + 1)

    return between(len(a), len(b))


SAID = st.lists(st.sampled_from(["a", "dog", "Dog,", "ran", "home."]), max_size=7).map(" ".join)


@settings(max_examples=100)
@given(SAID, st.lists(SAID.filter(bool), min_size=1, max_size=3))
def test_word_errors_by_hand(said: str, wanted: list[str]) -> None:
    pytest.importorskip("jiwer")
    bare = [tuple(text.lower().replace(",", "").replace(".", "").split()) for text in (said, *wanted)]
    rates = [edits(bare[0], reference) / len(reference) for reference in bare[1:]]
    assert values(one("wer"), (said, wanted)) == pytest.approx([min(rates)])

    whole = [tuple(text.lower().split()) for text in (said, *wanted)]
    kept = [
        1.0 if reference.lower() in said.lower() else 1 - edits(whole[0], words) / len(words)
        for reference, words in zip(wanted, whole[1:], strict=True)
    ]
    assert values(one("wrr"), (said, wanted)) == pytest.approx([max(kept)])


def test_word_errors_at_the_ends() -> None:
    pytest.importorskip("jiwer")
    many = " ".join(["word"] * 300)  # the released code counts errors in a byte
    assert values(one("wer"), ("", ["dog"]), ("", [""]), ("dog", ["?"]), (many, ["dog"])) == [1.0, 0.0, 1.0, 300.0]
    assert values(one("wrr"), (many, ["dog"]), ("it says: THE DOG ran", ["the dog"])) == [-299.0, 1.0]
    assert values(one("wrr"), ("", [""]), ("dog", [""])) == [1.0, 0.0]
