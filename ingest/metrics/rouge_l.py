"""ROUGE-L (Lin 2004) by rouge-score: F1 of the longest common subsequence, best over references; 0 to 1."""

from __future__ import annotations

from ingest.metrics._common import Pairwise, need


def build(*, stemmer: bool = False) -> Pairwise:
    """stemmer: compare words by their Porter stems."""
    scorer = need("rouge_l", "rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=stemmer)
    return Pairwise("rouge_l", lambda answer, reference: float(scorer.score(reference, answer)["rougeL"].fmeasure))
