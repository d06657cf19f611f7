"""BLEURT (Sellam et al. 2020): what a model trained on human ratings gives, best over references; roughly 0 to 1.

The model is a transformers checkpoint with a single output (Elron/bleurt-base-512 is the authors' own, converted), or a
folder in the authors' form (with bleurt_config.json), which their package `bleurt` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atlas.errors import Unsupported, UsageError
from atlas.live.load.parts import longest
from ingest.evaluate.metric import Judged
from ingest.metrics._common import from_pretrained

Rate = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""(references, answers) -> ratings."""


class Bleurt:
    """See the module. rate: the model's ratings."""

    def __init__(self, rate: Rate):
        self.rate = rate

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        references = [text for one in judged for text in one.references]
        answers = [one.answer for one in judged for _ in one.references]
        rated = iter(self.rate(references, answers) if answers else ())
        values = [max(next(rated) for _ in one.references) for one in judged]
        return {"bleurt": np.array(values, dtype=np.float64)}


def _by_transformers(model: str, revision: str, batch_size: int, device: str) -> Rate:
    import torch
    import transformers

    from atlas.live.load.checkpoints import find_device

    network = from_pretrained("bleurt", transformers.AutoModelForSequenceClassification, model, revision)
    if network.config.num_labels != 1:
        raise UsageError(f"bleurt needs a model with one output; '{model}' has {network.config.num_labels}")
    tokenizer = from_pretrained("bleurt", transformers.AutoTokenizer, model, revision)
    length = longest(tokenizer, network.config.max_position_embeddings)
    network.eval().to(find_device(device))

    def rate(references: Sequence[str], answers: Sequence[str]) -> list[float]:
        ratings: list[float] = []
        for start in range(0, len(answers), batch_size):
            end = start + batch_size
            pairs: Any = tokenizer(
                list(references[start:end]),
                list(answers[start:end]),
                padding=True,
                truncation="longest_first",
                max_length=length,
                return_tensors="pt",
            )
            with torch.inference_mode():
                ratings += network(**pairs.to(network.device)).logits[:, 0].tolist()
        return ratings

    return rate


def _by_its_package(model: str, batch_size: int) -> Rate:
    try:
        from bleurt.score import BleurtScorer
    except ImportError as error:
        raise Unsupported(
            f"'{model}' needs the package bleurt (github.com/google-research/bleurt, with TensorFlow), which is not on "
            "PyPI; or give a transformers checkpoint, such as Elron/bleurt-base-512"
        ) from error
    scorer = BleurtScorer(model)
    return lambda references, answers: scorer.score(
        references=list(references), candidates=list(answers), batch_size=batch_size
    )


def build(*, model: str = "", revision: str = "", batch_size: int = 32, device: str = "cpu") -> Bleurt:
    """model: HuggingFace id or folder, see above."""
    if model and (Path(model) / "bleurt_config.json").is_file():
        return Bleurt(_by_its_package(model, batch_size))
    return Bleurt(_by_transformers(model, revision, batch_size, device))
