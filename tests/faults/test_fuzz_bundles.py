"""The list of files of a bundle, which comes from a stranger: a value or one of the project's own errors."""

from __future__ import annotations

import pytest
from faulting import Nursery
from fuzzing import feed, objects
from operations import Operations

from atlas.share.listing import NAME, parse_listing


@pytest.mark.parametrize("number", [2_000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_lists_of_bundles(number: int, operations: Operations, nursery: Nursery) -> None:
    import json

    make = objects(json.loads((operations.bundle() / NAME).read_text()))
    assert feed(number, make, lambda data: parse_listing(data, "a bundle"), None) > 20
