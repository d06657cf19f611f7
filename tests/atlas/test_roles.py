"""Values by token role, against loops over planted maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas import Atlas
from atlas.edits.kinds import ablate
from atlas.errors import UsageError
from atlas.stats.intervals import of_values

SHAPE = (2, 8)
ADDRESSES = [(layer, neuron) for layer in range(2) for neuron in range(8)]


def planted(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32)


@pytest.fixture
def with_roles(empty: Path, make_run: Callable[..., Any], store_maps: Callable[..., None]) -> Atlas:
    """Shares at text and image tokens; one neuron has none. And a concept's map."""
    for seed, role in enumerate(("text", "image"), 1):
        values = {at: float(planted(seed)[at]) for at in ADDRESSES if at != (0, 3)}
        store_maps(empty, make_run(seed), {"modality_profile.share": {None: values}}, source=role)
    scores = {at: float(-n) for n, at in enumerate(ADDRESSES)}
    store_maps(empty, make_run(3), {"contribution": {"dog": scores}}, source="image", reduce="contrast")
    return Atlas.open(empty)


def test_values_are_means_over_the_neurons_beside_those_of_their_layers(with_roles: Atlas) -> None:
    answer = with_roles.roles(concept="dog", method="contribution", top=9)
    rows = answer.to_pylist()
    assert [row["role"] for row in rows] == ["text", "image"]
    chosen = [at for at in ADDRESSES[:9] if at != (0, 3)]  # 7 of the first layer, 1 of the second
    for seed, row in enumerate(rows, 1):
        values = planted(seed).astype(float)
        own = [values[at] for at in chosen]
        assert row["neurons"] == 8 and row["value"] == pytest.approx(np.mean(own))
        interval = of_values(own, (0.0, 1.0))
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        first = np.delete(values[0], 3).mean()
        assert row["expected"] == pytest.approx((7 * first + values[1].mean()) / 8)
    assert answer.facts == {"of": "the best 9 of dog", "neurons": 9, "model": "tiny"}


def test_one_neuron_has_its_own_values_and_no_interval(with_roles: Atlas) -> None:
    for row, seed in zip(with_roles.roles("1/5").to_pylist(), (1, 2), strict=True):
        assert row["value"] == pytest.approx(float(planted(seed)[1, 5])) and row["low"] is None
        assert row["expected"] == pytest.approx(float(planted(seed)[1].mean()))
    silent = with_roles.roles("0/3").to_pylist()
    assert [(row["value"], row["neurons"], row["expected"]) for row in silent] == [(None, 0, None)] * 2


def test_saved_neurons_are_a_set_too(with_roles: Atlas) -> None:
    with_roles.save_selection("dogs", with_roles.query("dog", method="contribution", top=2))
    [row, _] = with_roles.roles(of="dogs").to_pylist()
    assert row["value"] == pytest.approx(float(planted(1)[0, :2].mean())) and row["neurons"] == 2
    assert with_roles.roles(of="dogs").facts["of"] == "dogs"


def test_a_measured_neuron_equals_the_profile_of_a_run(own_atlas: Path) -> None:
    """The values of a run of modality_profile, read back."""
    from ingest.job import Execution, make_job
    from ingest.run.ingest import ingest

    atlas = Atlas.open(own_atlas)
    model = atlas.models()["name"][0].as_py()
    ingest(own_atlas, make_job({"model": model, "methods": {"modality_profile": {}}, "per_concept": 2}), Execution())
    rows = atlas.roles("1/5").to_pylist()
    shares = {row["role"]: row["value"] for row in rows if row["statistic"] == "modality_profile.share"}
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5) and {"text", "image"} <= set(shares)
    assert {row["statistic"] for row in rows} == {f"modality_profile.{name}" for name in ("share", "rate", "mean")}
    one = atlas.roles("1/5", statistics=("modality_profile.rate",))
    assert len(one) == len(shares)
    atlas.create_edit("no-dog", atlas.query("dog", top=5), ablate())
    assert atlas.roles(of="no-dog").facts["neurons"] == 5


def test_what_cannot_be_told_is_refused(with_roles: Atlas, filled: Path) -> None:
    for given, wanted in (
        ({}, "give one of a neuron"),
        ({"address": "1/5", "concept": "dog"}, "give one of a neuron"),
        ({"address": "1/5", "method": "contribution"}, "method chooses among a concept's neurons"),
        ({"address": "1/5", "top": 5}, "top chooses among a concept's neurons"),
        ({"address": "9/5"}, "9/5"),
        ({"concept": "dog", "statistics": ("share",)}, "no statistic by token role called 'share'"),
        ({"concept": "dog", "statistics": ("lape.role",)}, "no values by token role of lape.role"),
    ):
        with pytest.raises(UsageError, match=wanted):
            with_roles.roles(**given)
    with pytest.raises(UsageError, match="ingest --methods modality_profile"):
        Atlas.open(filled).roles("1/5")
