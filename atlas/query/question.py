"""A question: a frozen dataclass with its fields, and the function that answers it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from atlas.query.answer import Answer
from atlas.query.given import check_given
from atlas.query.map_spec import COORDINATES, MapSpec

A = TypeVar("A", bound=Answer, covariant=True)


class Question(ABC, Generic[A]):
    """A question to an atlas. Its fields are made by `option` and `required` of `atlas.query.option`.

    examples: command lines that ask it.
    """

    examples: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Convert and check the values; see `check_given`. A question with checks of its own calls this too.

        Raises:
            UsageError: a value that is not allowed.
        """
        check_given(self)

    def ask(self, path: Path) -> A:
        """The answer from the atlas at a path, which remembers what was asked."""
        answer = self.answer(path)
        answer.question = self
        return answer

    @abstractmethod
    def answer(self, path: Path) -> A:
        """Answer it from the atlas at a path.

        Raises:
            UsageError: it cannot be answered as it is asked; the message names the field.
            StoreUnavailable: there is no atlas, or it cannot be read now.
        """

    def any_found(self, answer: Answer) -> bool:
        """Whether an answer has what was asked for: any row, unless a question defines it otherwise."""
        return len(answer) > 0

    def maps(self, **replacements: Any) -> MapSpec:
        """The coordinates among its fields, with replacements by name."""
        coordinates = {name: getattr(self, name) for name in COORDINATES if hasattr(self, name)}
        return MapSpec(**(coordinates | replacements))

    def given(self) -> Mapping[str, Any]:
        """The fields that differ from their defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}  # type: ignore[arg-type]
