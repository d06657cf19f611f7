"""Maps that keep their best neurons and a sketch: the same best, the same percentiles, and nothing made up below."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas import Atlas
from atlas.edits import kinds
from atlas.errors import UsageError
from atlas.maintain.check import check
from atlas.maintain.rebuild import rebuild
from atlas.store import create
from atlas.store.database import open_readonly
from ingest.job import Execution, make_job
from ingest.run.ingest import ingest

KEPT = 20


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, small_job: Any) -> Path:
    """The stored atlas's job once more, keeping the best 20 of each map's 128 neurons."""
    path = tmp_path_factory.mktemp("keep") / "cut.atlas"
    create.init(path)
    ingest(path, replace(small_job, keep=f"top:{KEPT}"), Execution())
    return path


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with open_readonly(path) as connection:
        return connection.execute(sql).fetchall()


def test_what_is_kept_is_the_best_of_the_whole_map(cut: Path, stored_atlas: Path) -> None:
    assert check(cut) == []
    # Ties are drawn by the run's own lot, so scores are compared, not neurons.
    maps = """SELECT c.name, m.method, m.source, m.reduce, m.neurons, m.mean, m.std, count(*),
              list(s.score ORDER BY s.rank), list(s.rank ORDER BY s.rank)
              FROM maps m JOIN concepts c USING (concept_id) JOIN scores s USING (map_id)
              WHERE m.method <> 'random' {} GROUP BY ALL ORDER BY ALL"""
    kept, whole = rows(cut, maps.format("")), rows(stored_atlas, maps.format("AND s.rank <= 20"))
    assert kept == whole and len(kept) > 10
    assert rows(cut, "SELECT DISTINCT kept, neurons FROM maps WHERE concept_id IS NOT NULL") == [(KEPT, 128)]
    assert rows(cut, "SELECT count(*) FROM maps WHERE concept_id IS NULL AND kept < neurons") == [(0,)]


def test_percentiles_stay_those_of_the_whole_map(cut: Path, stored_atlas: Path) -> None:
    question = {"source": "text", "reduce": "mean"}
    found, whole = (Atlas.open(p).query("dog", "contribution", top=10, **question) for p in (cut, stored_atlas))
    assert list(found) == list(whole)
    assert found.to_arrow()["percentile"] == whole.to_arrow()["percentile"]
    assert f"kept={KEPT} (the best of 128 neurons; the others are not stored)" in found.provenance["assumed"]


def test_layers_of_two_maps_say_what_these_keep(cut: Path) -> None:
    two = ("contribution", "activation")
    found = Atlas.open(cut).layers("dog", methods=two, source="text", reduce="mean", select="top:5")
    counts = {name: count for name, count in found.facts["neurons"].items() if name in two}
    assert counts == dict.fromkeys(two, 5)
    assert f"kept={KEPT} (the best of 128 neurons; the others are not stored)" in found.defaults


def test_the_sketch_is_the_maps_quantiles(cut: Path, stored_atlas: Path) -> None:
    """128 neurons are fewer than the ranks of a sketch, so it has every score here."""
    of = "m.method = 'contribution' AND m.source = 'text' AND m.reduce = 'mean' AND c.name = 'dog'"
    tables = "{} s JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)"
    sketch = rows(cut, f"SELECT s.rank, s.score FROM {tables.format('sketches')} WHERE {of} ORDER BY s.rank")
    assert sketch == rows(
        stored_atlas, f"SELECT s.rank, s.score FROM {tables.format('scores')} WHERE {of} ORDER BY s.rank"
    )


def test_a_sketch_of_many_neurons_has_evenly_spaced_ranks() -> None:
    import torch

    from ingest.attribution.estimators import NeuronMap
    from ingest.run.arrow_tables import SKETCH, kept_count, sketches_table

    values = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0))
    values[0, :7] = float("nan")
    job = make_job({"keep": "top:100"})
    found = [("m", NeuronMap(c, "text", "text", "mean", values, (0, 1, 2, 3), 1)) for c in ("dog", None)]
    assert [kept_count(m, job) for _, m in found] == [100, 11993]  # maps over all concepts are kept whole
    table = sketches_table(job, found)
    ranks, scores = table["rank"].to_numpy(), table["score"].to_numpy()
    ordered = np.sort(values.numpy()[~torch.isnan(values).numpy()])[::-1]
    assert set(table["map_id"].to_pylist()) == {0} and len(ranks) == SKETCH
    assert ranks[0] == 1 and ranks[-1] == 11993 and set(np.diff(ranks)) <= {11, 12, 13}
    assert np.array_equal(scores, ordered[ranks - 1])


@pytest.mark.parametrize("rule", ["z:3", "top:20", "percentile:90", "fraction:0.5"])
def test_rules_that_stay_within_what_is_kept_are_exact(rule: str, cut: Path, stored_atlas: Path) -> None:
    found, whole = (
        Atlas.open(p).select(rule, "dog", "contribution", source="text", reduce="mean") for p in (cut, stored_atlas)
    )
    assert 0 < len(found) <= KEPT and list(found) == list(whole)


@pytest.mark.parametrize("rule", ["z:-1", "top:21", "percentile:50", "fraction:0", "per_layer:1", "above:-9"])
def test_rules_that_may_reach_below_are_refused(rule: str, cut: Path) -> None:
    with pytest.raises(
        UsageError, match=rf"may need neurons that the map does not store: it has the best {KEPT} of 128"
    ):
        Atlas.open(cut).select(rule, "dog", "contribution", source="text", reduce="mean")


def test_what_needs_whole_maps_says_so_or_leaves_them_out(cut: Path) -> None:
    atlas = Atlas.open(cut)
    assert len(atlas.query("dog", top=KEPT)) == KEPT
    with pytest.raises(UsageError, match="may need neurons that the map does not store"):
        atlas.query("dog", top=KEPT + 1)
    assert atlas.shared("dog", "contribution", top=KEPT).facts["top"] == KEPT
    with pytest.raises(UsageError, match="too few for this comparison; use a smaller top"):
        atlas.shared("dog", "contribution", top=KEPT + 1)
    with pytest.raises(UsageError, match="no map of another method can be compared with 'ablation'"):
        atlas.agreement("ablation")  # correlations of a few best neurons would be others
    mean = atlas.create_edit("m", atlas.query("dog", source="text", top=5), kinds.mean()).data
    assert len(mean.changes) == 5


def test_a_rebuilt_atlas_keeps_the_sketches(cut: Path) -> None:
    before = rows(cut, "SELECT count(*), sum(score) FROM sketches")
    rebuild(cut)
    assert rows(cut, "SELECT count(*), sum(score) FROM sketches") == before and check(cut) == []


@pytest.mark.parametrize("keep", ["best", "top", "top:0", "top:-1", "top:x", "all:3", ""])
def test_a_wrong_keep_is_refused(keep: str) -> None:
    with pytest.raises(UsageError, match="^keep is all, or top:N"):
        make_job({"keep": keep})


def test_the_plan_counts_what_is_kept(small_job: Any) -> None:
    from ingest.run.plan import plan

    whole, cut = (
        {row["what"]: row["how_much"] for row in plan(replace(small_job, keep=k), Execution())}
        for k in ("all", "top:20")
    )
    count = [int(said["scores"].replace(",", "")) for said in (whole, cut)]
    assert count[0] / 128 == count[1] / 20 and whole["disk"] != cut["disk"]
