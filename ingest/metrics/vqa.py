"""Accuracy of the VQA challenge (Antol et al. 2015): min(1, people who gave this answer / 3); 0 to 1.

The mean over leaving out each person in turn, with answers normalised as in the official evaluation: lower case, no
articles, no punctuation, number words as digits, apostrophes put back. Two things are decided here: both sides are
always normalised (the official script leaves them alone where all people agree), and the rule, made for ten people,
asks fewer than four for as many as there are besides the one left out; a lone reference is compared as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ingest.evaluate.metric import Judged

ARTICLES = ("a", "an", "the")
NUMBERS = ("none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(n) for n, said in enumerate(NUMBERS) for word in said.split()}
SHORT_FORMS = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't
must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""
"""The official list; without the apostrophe, most of them are not another word."""
APOSTROPHES = {
    form[:i] + form[i + 1 :]: form for form in SHORT_FORMS.split() for i, letter in enumerate(form) if letter == "'"
}
"""Each form with one apostrophe dropped -> the form."""

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")


def normalised(answer: str) -> str:
    """An answer normalised as in the official evaluation."""
    text = " ".join(answer.split())
    joined = COMMA_IN_NUMBER.search(text) is not None
    bare = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_space or joined else " ")
    tokens = [DIGITS.get(word, word) for word in FULL_STOP.sub("", bare).lower().split()]
    return " ".join(APOSTROPHES.get(word, word) for word in tokens if word not in ARTICLES)


def accuracy(answer: str, references: Sequence[str]) -> float:
    """The accuracy of one answer, from 0 to 1."""
    normalised_answer, given_answers = normalised(answer), [normalised(reference) for reference in references]
    matches = [normalised_answer == person for person in given_answers]
    if len(given_answers) == 1:
        return float(matches[0])
    enough = min(3, len(given_answers) - 1)
    return float(np.mean([min((sum(matches) - own_match) / enough, 1) for own_match in matches]))


class Vqa:
    """See the module."""

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        return {
            "vqa": np.array(
                [accuracy(judged_answer.answer, judged_answer.references) for judged_answer in judged], dtype=np.float64
            )
        }


def build() -> Vqa:
    """No parameters."""
    return Vqa()
