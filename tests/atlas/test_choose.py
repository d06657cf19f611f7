"""What is answered where a name is wrong, or right of other maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas
from atlas.errors import UsageError


def test_a_run_whose_maps_a_newer_one_has_too_is_known(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    scores = {(0, n): float(n) for n in range(8)}
    for seed in (1, 2):
        store_maps(empty, make_run(seed), {"contribution": {"dog": scores}}, source="image")
    old = make_run(1).run_id
    atlas = Atlas.open(empty)
    assert atlas.query("dog", run=old[:6]).provenance["maps"][0]["run_id"] == old
    with pytest.raises(UsageError, match="no stored source called 'text'; there are: image"):
        atlas.shared("dog", run=old[:6])
    with pytest.raises(UsageError, match="no stored concept called 'dgo'; did you mean 'dog'"):
        atlas.query("dgo", run=old[:6])
    with pytest.raises(UsageError, match="no run called '0a8b0a8b'; there are: "):
        atlas.query("dog", run="0a8b0a8b")


def test_a_name_that_is_stored_for_other_concepts_is_said_to_be(
    empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> None:
    scores = {(0, n): float(n) for n in range(8)}
    store_maps(empty, make_run(1), {"contribution": {"dog": scores}, "miner": {None: scores}})
    atlas = Atlas.open(empty)
    with pytest.raises(UsageError, match=r"^method 'miner' has no map of concept 'dog', only of: '\*' \(`atlas conc"):
        atlas.query("dog", "miner")
    with pytest.raises(UsageError, match="no stored method called 'mine'; there are: contribution"):
        atlas.query("dog", "mine")


def test_the_map_over_every_concept_is_listed_as_none(filled: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Atlas.open(filled).query("sheep")
    assert "there are: cat, dog, horse (" in str(caught.value)
