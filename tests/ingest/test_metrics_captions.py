"""Metrics of words in captions, each against an independent reference: brute force or another package."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import one, tiny_wordnet, values

from atlas.errors import Unsupported
from ingest.evaluate.metric import Judged
from ingest.metrics._common import words

SENTENCES = st.lists(st.sampled_from(["a", "dog", "cat", "runs", "sits", "on", "the", "mat"]), max_size=8).map(" ".join)
JUDGED = st.lists(
    st.builds(Judged, SENTENCES, st.lists(SENTENCES, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=6
)


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    said = text.split()
    return [tuple(said[i : i + n]) for i in range(len(said) - n + 1)]


def bleu_by_hand(answer: str, references: tuple[str, ...], order: int) -> float:
    said = len(answer.split())
    if not said:
        return 0.0
    nearest = min((abs(len(r.split()) - said), len(r.split())) for r in references)[1]
    logs, missed = [], 0
    for n in range(1, order + 1):
        mine = grams(answer, n)
        if not mine:
            break
        right = 0
        for gram in set(mine):
            right += min(mine.count(gram), max(grams(r, n).count(gram) for r in references))
        if not right:
            missed += 1
        logs.append(math.log(right / len(mine) if right else 1 / (2**missed * len(mine))))
        if n == 1 and not right:
            return 0.0
    return min(1.0, math.exp(1 - nearest / said)) * math.exp(sum(logs) / len(logs))


@settings(max_examples=60)
@given(JUDGED)
def test_bleu_by_hand(judged: list[Judged]) -> None:
    pytest.importorskip("sacrebleu")
    found = one("bleu").score(judged)
    for n in (1, 2, 3, 4):
        by_hand = [bleu_by_hand(j.answer, j.references, n) for j in judged]
        assert found[f"bleu{n}"] == pytest.approx(by_hand, abs=1e-9)


def longest_common(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


@settings(max_examples=60)
@given(JUDGED)
def test_rouge_l_by_hand_and_by_the_packages_own_way_with_several_references(judged: list[Judged]) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    found = one("rouge_l").score(judged)["rouge_l"]
    for j, value in zip(judged, found, strict=True):
        sizes = [(j.answer.split(), r.split()) for r in j.references]
        by_hand = max(2 * longest_common(a, r) / (len(a) + len(r)) if a and r else 0.0 for a, r in sizes)
        assert value == pytest.approx(by_hand)
        assert value == scorer.score_multi(j.references, j.answer)["rougeL"].fmeasure


def test_rouge_l_with_stems() -> None:
    pytest.importorskip("rouge_score")
    pair = ("the dogs running", ("the dog runs",))
    assert values(one("rouge_l"), pair) == pytest.approx([1 / 3])
    assert values(one("rouge_l", stemmer="true"), pair) == [1.0]


def cider_by_hand(judged: list[Judged]) -> list[float]:
    """Dense vectors over all n-grams of all texts."""
    totals = np.zeros(len(judged))
    for n in (1, 2, 3, 4):
        texts = [t for j in judged for t in (j.answer, *j.references)]
        known = {g: i for i, g in enumerate(sorted({g for t in texts for g in grams(t, n)}))}
        if not known:
            continue

        def vector(text: str, n: int = n, known: dict[tuple[str, ...], int] = known) -> np.ndarray:
            return np.bincount([known[g] for g in grams(text, n)], minlength=len(known)).astype(float)

        within = np.array([np.any([vector(r) > 0 for r in j.references], axis=0) for j in judged])
        rarity = np.log(len(judged)) - np.log(np.maximum(within.sum(0), 1))
        for i, j in enumerate(judged):
            mine = vector(j.answer) * rarity
            for reference in j.references:
                its = vector(reference) * rarity
                norm = np.linalg.norm(mine) * np.linalg.norm(its)
                gap = len(grams(j.answer, 2)) - len(grams(reference, 2))
                if norm:
                    cosine = np.minimum(mine, its) @ its / norm
                    totals[i] += cosine * math.exp(-(gap**2) / 72) / len(j.references)
    return list(10 * totals / 4)


@settings(max_examples=80)
@given(JUDGED)
def test_cider_by_hand(judged: list[Judged]) -> None:
    assert one("cider").score(judged)["cider"] == pytest.approx(cider_by_hand(judged), abs=1e-9)


@settings(max_examples=80)
@given(JUDGED)
def test_cider_is_pycocoevalcaps(judged: list[Judged]) -> None:
    scorer = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    # It asserts that some n-gram is there.
    judged = [*judged, Judged("a dog", ("the dog",))]
    wanted = {i: [" ".join(words(r)) for r in j.references] for i, j in enumerate(judged)}
    said = {i: [" ".join(words(j.answer))] for i, j in enumerate(judged)}
    _, each = scorer.compute_score(wanted, said)
    assert one("cider").score(judged)["cider"] == pytest.approx(each, abs=1e-9)


def test_words() -> None:
    assert words("A well-dressed man's dog; 2 cats_and -- ELÁN!") == [
        "a",
        "well-dressed",
        "man's",
        "dog",
        "2",
        "cats",
        "and",
        "elán",
    ]


@settings(max_examples=60)
@given(JUDGED)
def test_tfidf_cosine_is_scikit_learns(judged: list[Judged]) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    metric = one("tfidf_cosine")
    for j in judged:
        all_texts = [*j.references, j.answer]
        if not any(len(word) > 1 for t in all_texts for word in t.split()):  # "empty vocabulary" there
            assert values(metric, (j.answer, j.references)) == [0.0]
            continue
        table = text.TfidfVectorizer().fit_transform(all_texts).toarray()  # rows of length 1
        cosines = table[:-1] @ table[-1]
        found = metric.score([j])
        assert found["tfidf_cosine"] == pytest.approx([cosines.max()])
        assert found["tfidf_cosine_mean"] == pytest.approx([cosines.mean()])
        assert found["tfidf_cosine_min"] == pytest.approx([cosines.min()])


def test_meteor_aligns_words_stems_and_synonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tiny_wordnet(tmp_path, [("dog", "hound"), ("sofa", "couch")]))])
    metric = one("meteor")
    same, shuffled, synonym, stem, longer, none = values(
        metric,
        ("a dog sleeps", ["a dog sleeps"]),
        ("sleeps a dog", ["a dog sleeps"]),
        ("a hound sleeps", ["a dog sleeps", "two cats"]),
        ("a dog sleeping", ["a dog sleeps"]),
        ("a dog sleeps on my couch", ["a dog sleeps"]),
        ("a cat", ["two dogs"]),
    )
    assert same == synonym == stem == pytest.approx(1 - 0.5 / 27)  # one chunk of three matches
    assert shuffled == pytest.approx(1 - 0.5 * (2 / 3) ** 3) and none == 0.0
    assert longer == pytest.approx((1 - 0.5 / 27) / (0.9 + 0.1 * 2))  # precision 1/2, recall 1
    assert values(one("meteor", gamma=0), ("sleeps a dog", ["a dog sleeps"])) == [1.0]


def test_meteor_without_wordnets_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(Unsupported, match="needs WordNet's data: python -m nltk.downloader wordnet"):
        one("meteor")
