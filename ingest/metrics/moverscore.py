"""MoverScore (Zhao et al. 2019) by its authors' moverscore_v2: word mover similarity, best over references; at most 1.

The module is from github.com/AIPHES/emnlp19-moverscore: the PyPI package does not run with current transformers or
numpy. It loads the model named by MOVERSCORE_MODEL when it is imported. An answer or reference without words scores 0.
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
    "the moverscore metric needs moverscore_v2 (github.com/AIPHES/emnlp19-moverscore, fixed for this numpy and "
    "transformers) and pyemd"
)


class MoverScore:
    """See the module. module: moverscore_v2."""

    def __init__(self, module: Any, batch_size: int):
        self.module, self.batch_size = module, batch_size

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        values = np.zeros(len(judged))
        with_words = [i for i, judged_answer in enumerate(judged) if words(judged_answer.answer)]
        pairs = [(i, text) for i in with_words for text in judged[i].references if words(text)]
        if pairs:
            # Equal weights for all words: idf over these answers would make each value depend on the others.
            equal_weights: defaultdict[int, float] = defaultdict(lambda: 1.0)
            try:
                similarities = self.module.word_mover_score(
                    [text for _, text in pairs],
                    [judged[i].answer for i, _ in pairs],
                    equal_weights,
                    equal_weights,
                    stop_words=[],
                    n_gram=1,
                    remove_subwords=True,
                    batch_size=self.batch_size,
                )
            except AttributeError as error:  # such as np.float, which numpy removed
                raise Unsupported(f"{MISSING}: {first_line(error)}") from error
            values[[i for i, _ in pairs]] = -np.inf
            np.maximum.at(values, [i for i, _ in pairs], np.asarray(similarities, dtype=np.float64))
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
