"""METEOR by nltk (Lavie & Agarwal 2007): aligned words, stems and WordNet synonyms, best over references; 0 to 1.

Not the Java METEOR 1.5 of caption papers, which has paraphrase tables and other weights.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

from atlas.errors import Unsupported
from ingest.metrics._common import Pairwise, need, words


@functools.cache
def _wordnet(folders: tuple[str, ...]) -> Any:
    """WordNet, from nltk's data folders. Cached for good, as it keeps its files open; nltk's own reader would stay with
    the first folder that it found."""
    reader = need("meteor", "nltk.corpus.reader.wordnet").WordNetCorpusReader
    lazy = need("meteor", "nltk.corpus.util").LazyCorpusLoader("wordnet", reader, None)
    with warnings.catch_warnings():
        # Words of other languages are not needed.
        warnings.filterwarnings("ignore", "The multilingual functions are not available", UserWarning)
        try:
            lazy.ensure_loaded()
        except LookupError as error:
            raise Unsupported(
                "the meteor metric needs WordNet's data: python -m nltk.downloader wordnet "
                "(or NLTK_DATA=FOLDER, with corpora/wordnet in it)"
            ) from error
    return lazy


def build(*, alpha: float = 0.9, beta: float = 3.0, gamma: float = 0.5) -> Pairwise:
    """alpha: weight of recall against precision. beta, gamma: shape and weight of the penalty for scattered matches."""
    single = need("meteor", "nltk.translate.meteor_score").single_meteor_score
    wordnet = _wordnet(tuple(need("meteor", "nltk").data.path))

    def compare(answer: str, reference: str) -> float:
        answer_words, reference_words = words(answer), words(reference)
        return float(single(reference_words, answer_words, wordnet=wordnet, alpha=alpha, beta=beta, gamma=gamma))

    return Pairwise("meteor", compare)
