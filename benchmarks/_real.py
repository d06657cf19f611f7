"""The embedded model, and the models with real weights that `atlas models get` has fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingest import zoo


@dataclass(frozen=True)
class Real:
    """A model with the dataset that is asked, one source of its examples, concepts of which it has many, and whose
    answers are explained."""

    name: str
    dataset: str
    source: str
    concepts: tuple[str, ...]
    answers: str = "own"

    def job(self, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        which = {"model": self.name, "dataset": self.dataset, "sources": [self.source], "answers": self.answers}
        return which | {"methods": dict(methods)}


TOY = Real("tiny-llava", "scenes", "text", ("dog", "cat", "car", "fish"))
FETCHED = (
    Real("smollm2-135m", "facts", "text", ("dog", "cat", "car", "bird")),
    Real("photo-vlm", "photos", "image", ("dog", "cat", "car", "bird"), "reference"),  # its own words name few things
)


def toy_and_fetched(names: Sequence[str] = ()) -> Iterator[Real]:
    """The embedded model and the fetched ones, or those named; a line says which are lacking."""
    for model in (TOY, *FETCHED):
        if names and model.name not in names:
            continue
        if model is not TOY and zoo.fetched_folder(model.name) is None:
            print(f"{model.name} is not here and is left out: `atlas models get {model.name}` fetches it")
            continue
        yield model
