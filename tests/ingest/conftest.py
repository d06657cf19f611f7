"""A random model that was taught to say some words, for the tests of word swaps."""

from __future__ import annotations

from typing import Any

import pytest
from swapping import speaker


@pytest.fixture(scope="session")
def speaking(random_llava: Any) -> Any:
    """A LLaVA that says what `swapping.SPOKEN` says."""
    from atlas.live.model import LiveModel

    return speaker(LiveModel(*random_llava(), name="speaking-llava"))
