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
    """WordNet, from where nltk looks for data: these folders. It is kept for good, as it leaves its files open; the
    reader of nltk itself would stay with the folder that it found first."""
    reader = need("meteor", "nltk.corpus.reader.wordnet").WordNetCorpusReader
    lazy = need("meteor", "nltk.corpus.util").LazyCorpusLoader("wordnet", reader, None)
    with warnings.catch_warnings():
        # Other languages' words are not wanted.
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
        said, wanted = words(answer), words(reference)
        return float(single(wanted, said, wordnet=wordnet, alpha=alpha, beta=beta, gamma=gamma))

    return Pairwise("meteor", compare)
