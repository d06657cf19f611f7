"""What metrics share: words, the best over references, and packages and models that may be missing."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.errors import Unsupported, UsageError
from ingest.judging import Judged

WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
"""Letters and digits; a hyphen or an apostrophe only between them."""


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return WORD.findall(text.lower())


def contains(answer: str, reference: str) -> float:
    """1 where the reference, in any case, is a substring of the answer. An empty one is in nothing."""
    wanted = reference.strip().lower()
    return float(bool(wanted) and wanted in answer.lower())


@dataclass(frozen=True, slots=True)
class Pairwise:
    """A metric of one answer and one reference; of several references the best counts."""

    name: str
    compare: Callable[[str, str], float]
    """(answer, reference) -> value."""
    best: Callable[[Iterable[float]], float] = max

    def score(self, judged: Sequence[Judged]) -> dict[str, np.ndarray]:
        values = [self.best(self.compare(j.answer, reference) for reference in j.references) for j in judged]
        return {self.name: np.array(values, dtype=np.float64)}


def need(metric: str, module: str) -> Any:
    """A module of the extra `metrics`.

    Raises:
        Unsupported: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise Unsupported(f"the {metric} metric needs {package}: pip install 'neuron-atlas[metrics]'") from error


def from_pretrained(metric: str, loader: Any, model: str, revision: str, **options: Any) -> Any:
    """`loader.from_pretrained`, quiet.

    Raises:
        UsageError: no model is given, or it cannot be loaded.
    """
    from transformers.utils import logging

    if not model:
        raise UsageError(f"the {metric} metric needs a model: --{metric}-model ID_OR_FOLDER")
    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # weights that are left out on purpose are not worth a table
    try:
        return loader.from_pretrained(model, revision=revision or None, **options)
    except (OSError, ValueError) as error:
        raise UsageError(f"{metric}: cannot load the model '{model}': {first_line(error)}") from error
    finally:
        logging.set_verbosity(before)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def longest(tokenizer: Any, positions: int) -> int:
    """How many tokens a text may have: the tokenizer's limit, which many leave at 10^30, or the model's."""
    return int(min(tokenizer.model_max_length, positions))
