"""What tests of the contract tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def made_by(kind: Callable[[], Any]) -> Callable[[], Any]:
    """A `build` function of an entry without parameters."""

    def build() -> Any:
        """No parameters."""
        return kind()

    return build
