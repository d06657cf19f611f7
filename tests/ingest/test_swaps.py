"""Word swaps as data: which tokens of an answer are the word's, before and after, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swapping import SPOKEN, cases_of, example, feed_of, one_pass

from atlas.errors import UsageError
from atlas.live.encode import Prompt
from ingest.solve.swaps import Swap, check_words, make_cases, replace_word, spoken_cases


def text(live: Any, prompt: Prompt) -> str:
    return str(live.encoder.decode(prompt.answer)).strip()


def pieces(live: Any, prompt: Prompt, at: tuple[int, ...]) -> str:
    """The tokens at these places as one text."""
    return str(live.encoder.decode([prompt.answer[i] for i in at])).strip()


@pytest.mark.parametrize(
    ("answer", "said", "wanted", "becomes", "number"),
    [
        ("a dog barks", "dog", "cat", "a cat barks", 1),
        ("dog", "dog", "cat", "cat", 1),
        ("dog barks", "dog", "cat", "cat barks", 1),
        ("a red dog", "dog", "cat", "a red cat", 1),
        ("a red dog.", "dog", "cat", "a red cat.", 1),
        ("a cat and a dog", "dog", "cat", "a cat and a cat", 1),  # the wanted word is there already
        ("a dog and a cat", "dog", "cat", "a cat and a cat", 1),
        ("a dog and a dog", "dog", "cat", "a cat and a cat", 2),
        ("dog dog cat dog", "dog", "cat", "cat cat cat cat", 3),
        ("Dog barks, a DOG", "dog", "cat", "cat barks, a cat", 2),
        ("a dog barks", "Dog", "cat", "a cat barks", 1),
        ("a hot dog", "hot dog", "dog", "a dog", 1),
        ("a dog and a hot dog", "hot dog", "dog", "a dog and a dog", 1),
        ("a dog", "dog", "hot dog", "a hot dog", 1),
        ("hotdogs and a dog", "dog", "cat", "hotdogs and a cat", 1),
        ("a dog", "dog", "butterfly", "a butterfly", 1),  # of several tokens
        ("a butterfly", "butterfly", "dog", "a dog", 1),
    ],
)
def test_every_occurrence_is_replaced_and_found_again(
    answer: str, said: str, wanted: str, becomes: str, number: int, llava: Any
) -> None:
    (case,) = cases_of(llava, [answer], Swap(said, wanted))
    assert text(llava, case.said) == answer and text(llava, case.wanted) == becomes
    assert pieces(llava, case.said, case.said_at).lower() == said.lower()
    parts: list[list[int]] = []  # runs of neighbouring tokens: the occurrences, unless they touch
    for i in case.wanted_at:
        ends = parts and parts[-1][-1] == i - 1
        whole = bool(parts) and pieces(llava, case.wanted, tuple(parts[-1])) == wanted
        if ends and not whole:
            parts[-1].append(i)
        else:
            parts.append([i])
    assert len(parts) == number
    assert all(pieces(llava, case.wanted, tuple(part)) == wanted for part in parts)


def test_the_wanted_word_that_was_there_before_is_not_changed(llava: Any) -> None:
    (first,) = cases_of(llava, ["a cat and a dog"], Swap("dog", "cat"))
    (second,) = cases_of(llava, ["a dog and a cat"], Swap("dog", "cat"))
    assert first.wanted.answer == second.wanted.answer and first.wanted_at != second.wanted_at
    assert min(first.wanted_at) > max(second.wanted_at)


def test_a_word_that_is_to_disappear_keeps_its_answer_and_the_first_token_of_every_occurrence(llava: Any) -> None:
    (case,) = cases_of(llava, ["a butterfly and a butterfly"], Swap("butterfly"))
    assert case.said == case.wanted and len(case.said_at) > 1 and len(case.wanted_at) == 2
    assert case.wanted_at[0] in case.said_at
    first, second = (case.said.answer[i] for i in case.wanted_at)
    assert first == second
    assert [t.weight for t in case.item().targets] == [0.5, 0.5]
    assert [t.index for t in case.item(original=True).targets] == list(case.said_at)


def test_a_word_begins_with_the_space_before_it_where_that_is_a_token(llava: Any) -> None:
    """Else the model would have to say the space by itself, and what comes after it would never be asked for."""
    (case,) = cases_of(llava, ["a dog"], Swap("dog", "cat"))
    assert [llava.encoder.token(t) for t in case.said.answer] == [" a", " dog"]
    assert [llava.encoder.token(t) for t in case.wanted.answer] == [" a", " ", "cat"]
    assert case.said_at == (1,) and case.wanted_at == (1, 2)
    (case,) = cases_of(llava, ["a cat"], Swap("cat", "dog"))
    assert case.said_at == (1, 2) and case.wanted_at == (1,)
    (case,) = cases_of(llava, ["a cat"], Swap("cat"))
    assert case.said_at == (1, 2) and case.wanted_at == (2,)  # a space may still be said
    (case,) = cases_of(llava, ["a dog barks"], Swap("dog", "犬"))  # bytes, the first of which write nothing alone
    assert case.wanted_at == tuple(range(1, len(case.wanted.answer) - len(case.said.answer) + 2))
    assert pieces(llava, case.wanted, case.wanted_at) == "犬"


def test_a_word_of_several_tokens_shares_its_weight(llava: Any) -> None:
    (case,) = cases_of(llava, ["a dog"], Swap("dog", "butterfly"))
    targets = case.item().targets
    assert len(targets) > 1 and sum(t.weight for t in targets) == pytest.approx(1)
    assert [t.index for t in targets] == list(case.wanted_at)
    assert case.item().prompt == case.wanted and case.item(original=True).prompt == case.said


WORDS = st.lists(st.sampled_from(["dog", "Dog", "cat", "a", "hot dog", "red,", "dogs"]), min_size=1, max_size=7)


@settings(max_examples=200)
@given(WORDS, st.sampled_from(["cat", "dog house", "a", "hot dog"]))
def test_replacing_is_what_a_plain_split_does(words: list[str], wanted: str) -> None:
    """Word by word: the reference knows no pattern and counts the occurrences of the wanted word before each place."""
    flat = " ".join(words).split()
    out: list[str] = []
    ends = []
    for word in flat:
        if word.lower() == "dog":
            out += wanted.split()
            ends.append(len(out))
        else:
            out.append(word)
    found, places = replace_word(" ".join(flat), "dog", wanted)
    assert found == " ".join(out) and len(places) == len(ends)
    if wanted in ("cat", "a"):
        assert places == [sum(w == wanted for w in out[:end]) - 1 for end in ends]


def test_answers_without_the_word_are_no_cases(llava: Any) -> None:
    cases = cases_of(llava, ["a cat", "a dog", "dogs and hotdogs", "no dog", "a hot-dog"], Swap("dog", "cat"))
    assert [case.number for case in cases] == [1, 3]


def test_without_a_reference_the_models_own_answer_is_changed(speaking: Any) -> None:
    asked = [replace(e, answer=None) for e in SPOKEN]
    feed = feed_of(speaking, asked)
    cases = make_cases(feed, list(enumerate(asked)), Swap("dog", "cat"), 4)
    assert {c.number: text(speaking, c.said) for c in cases} == {
        n: e.answer for n, e in enumerate(SPOKEN) if "dog" in str(e.answer).split()
    }
    for case in cases:
        own = speaking.generate([Prompt(case.said.ids, (), case.said.extras)], max_new_tokens=12)[0]
        assert case.said.answer == tuple(own)
        assert text(speaking, case.wanted) == text(speaking, case.said).replace("dog", "cat")
        assert pieces(speaking, case.said, case.said_at) == "dog"
    assert spoken_cases(speaking, cases, 4) == cases  # what the model says by itself it says
    assert len(feed.made) == len(SPOKEN)


def test_a_picture_that_does_not_open_is_no_case(llava: Any) -> None:
    from ingest.data.examples import BadMedia

    examples = [example("a dog", media="1"), example("a dog", media="2")]
    feed = feed_of(llava, examples)
    plain = feed.dataset.image

    def image(media: str) -> Any:
        if media == "1":
            raise BadMedia("no picture")
        return plain(media)

    feed.dataset.image = image  # type: ignore[method-assign]
    found = make_cases(feed, list(enumerate(examples)), Swap("dog", "cat"), 4)
    assert [case.number for case in found] == [1] and feed.skipped.media == {"1": "no picture"}


def test_spoken_cases_are_those_in_which_every_token_is_the_first_choice(speaking: Any) -> None:
    """Against one pass by hand for each: some of the answers are the model's, others are not."""
    taught = [e for e in SPOKEN if "dog" in str(e.answer).split()]
    strange = [replace(e, answer=f"{e.answer} and two butterfly dog") for e in taught]
    for word, number in (("dog", len(taught)), ("butterfly", 0)):
        examples = [*taught, *strange] if word == "dog" else strange
        cases = make_cases(feed_of(speaking, examples), list(enumerate(examples)), Swap(word, "cat"), 4)
        kept = spoken_cases(speaking, cases, 2)
        right = []
        for case in cases:
            item = case.item(original=True)
            capture, start, ids = one_pass(speaking, item, layers=[])
            choice = speaking.logits(capture.norm_out[0]).argmax(-1)
            right.append(all(int(choice[start + t.index - 1]) == ids[start + t.index] for t in item.targets))
        assert [case in kept for case in cases] == right and len(cases) == len(examples)
        assert sum(right) == (len(examples) if word == "dog" else 0), number
    assert spoken_cases(speaking, [], 2) == []


@pytest.mark.parametrize(
    ("said", "wanted", "message"),
    [
        ("", "cat", "empty; write word='dog' to='cat', or word='dog' alone"),
        ("  ", None, "empty; write word='dog'"),
        ("dog", "", "empty"),
        ("dog", " ", "empty"),
        ("dog", "dog", "'dog' would become itself; give another to"),
        ("dog", "Dog", "would become itself"),
        ("dog", " dog ", "would become itself"),
    ],
)
def test_words_that_cannot_be_swapped(said: str, wanted: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Swap(said, wanted)


def test_spaces_around_a_word_are_no_part_of_it() -> None:
    assert Swap(" dog", "cat ") == Swap("dog", "cat") and Swap(" dog ") == Swap("dog")


def test_a_word_that_the_tokenizer_does_not_know_is_refused(llava: Any) -> None:
    class Words:
        """A tokenizer of whole words."""

        unk_token_id = 0

        def __call__(self, word: str, **_: object) -> Any:
            ids = [{"dog": 1, "cat": 2}.get(part, 0) for part in word.split()]
            return type("Ids", (), {"input_ids": ids})

    encoder = type("Encoder", (), {"tokenizer": Words()})()
    check_words(encoder, Swap("dog", "cat"))  # type: ignore[arg-type]
    check_words(encoder, Swap("dog"))  # type: ignore[arg-type]
    for swap, word in ((Swap("犬", "cat"), "犬"), (Swap("dog", "hot cat"), "hot cat"), (Swap("犬"), "犬")):
        with pytest.raises(UsageError, match=f"does not know '{word}'; write it in the tokenizer's script"):
            check_words(encoder, swap)  # type: ignore[arg-type]
    check_words(llava.encoder, Swap("犬", "cat"))  # bytes: it has no unknown word
    assert llava.encoder.tokenizer.unk_token_id is None
