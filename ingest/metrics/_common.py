"""Shared parts of metrics: words, the best over references, and packages and models that may be missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlas.errors import Unsupported
from atlas.live.load.parts import load_part
from atlas.vectors.neuron_text import WORD
from ingest.evaluate.metric import Judged


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return WORD.findall(text.lower())


def contains(answer: str, reference: str) -> float:
    """1 where the reference, in any case, is a substring of the answer, else 0; 0 for an empty reference."""
    sought = reference.strip().lower()
    return float(bool(sought) and sought in answer.lower())


@dataclass(frozen=True, slots=True)
class Pairwise:
    """A metric of one answer and one reference; with several references the best value counts."""

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
    """See `atlas.live.load.parts.load_part`."""
    needed = f"the {metric} metric needs a model: --{metric}-model ID_OR_FOLDER"
    return load_part(loader, model, revision, needed=needed, failed=f"{metric}:", **options)
