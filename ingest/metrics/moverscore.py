"""MoverScore (Zhao et al. 2019) by its authors' moverscore_v2: word mover similarity, best over references; at most 1.

The module has to be had from github.com/AIPHES/emnlp19-moverscore: what PyPI has of it runs on no transformers or numpy
of today. It loads its model when it is imported, the one that MOVERSCORE_MODEL names. Where answer or reference
has no word it scores 0.
"""

from __future__ import annotations

import importlib
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from atlas.errors import Unsupported
from atlas.live.load.parts import first_line
from ingest.evaluate.metric import Judged
from ingest.metrics._common import words

MISSING = (
    "the moverscore metric needs moverscore_v2 (github.com/AIPHES/emnlp19-moverscore, mended for this numpy and "
    "transformers) and pyemd"
)


class MoverScore:
    def __init__(self, module: Any, batch_size: int):
        self.module, self.batch_size = module, batch_size

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        values = np.zeros(len(judged))
        spoken = [i for i, one in enumerate(judged) if words(one.answer)]
        pairs = [(i, text) for i in spoken for text in judged[i].references if words(text)]
        if pairs:
            # Equal weights for all words: idf over the answers at hand would make a value depend on the others.
            alike: defaultdict[int, float] = defaultdict(lambda: 1.0)
            try:
                found = self.module.word_mover_score(
                    [text for _, text in pairs],
                    [judged[i].answer for i, _ in pairs],
                    alike,
                    alike,
                    stop_words=[],
                    n_gram=1,
                    remove_subwords=True,
                    batch_size=self.batch_size,
                )
            except AttributeError as error:  # such as np.float, which numpy has no more
                raise Unsupported(f"{MISSING}: {first_line(error)}") from error
            values[[i for i, _ in pairs]] = -np.inf
            np.maximum.at(values, [i for i, _ in pairs], np.asarray(found, dtype=np.float64))
        return {"moverscore": values}


def build(*, model: str = "", batch_size: int = 64) -> MoverScore:
    """model: HuggingFace id or folder, for the first import only; else what MOVERSCORE_MODEL says, or DistilBERT."""
    if model:
        os.environ["MOVERSCORE_MODEL"] = model
    try:
        module = importlib.import_module("moverscore_v2")
    except (ImportError, OSError, RuntimeError, NameError) as error:  # a package, its model, its GPU, an old name
        raise Unsupported(f"{MISSING}: {first_line(error)}") from error
    return MoverScore(module, batch_size)
