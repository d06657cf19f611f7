"""One job with every method, through the whole of ingest: maps, parts, labels, reductions, negatives, resumption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atlas import registry
from atlas.errors import UsageError
from atlas.maintain.check import check
from atlas.store.database import open_readonly
from ingest import methods
from ingest.job import Execution, make_job
from ingest.run.ingest import ingest
from ingest.run.plan import plan


def test_one_job_with_every_method(empty_atlas: Path, llava_folder: Path) -> None:
    names = [name for name in registry.folder_names(methods) if "text" in registry.load(methods, name).build().targets]
    content = {
        "model": str(llava_folder),
        "methods": {name: {} for name in names} | {"two_stage": {"threshold": "fraction", "fraction": 0.5}},
        "concepts": ["cat", "dog"],
        "per_concept": 2,
        "negatives": 4,
        "reduce": ["mean", "contrast", "cohens_d", "auroc"],
    }
    job = make_job(content)
    assert any("counterfactual" in row["reckoned_from"] for row in plan(job, Execution()))
    outcome = ingest(empty_atlas, job, Execution(batch_size=4)).outcome
    assert not check(empty_atlas)
    with open_readonly(empty_atlas) as connection:
        maps = connection.sql(
            "SELECT method, source, reduce, concept_id, neurons, parameters FROM maps"
        ).to_arrow_table()
        labels = connection.sql("SELECT DISTINCT label FROM labels").to_arrow_table()["label"].to_pylist()
    rows = maps.to_pylist()
    assert len(rows) == outcome["maps"]
    assert {r["method"].partition(".")[0] for r in rows} == set(names)
    assert {"two_stage.stage1", "two_stage.stage2", "miner.mean"} <= {r["method"] for r in rows}
    assert {r["source"] for r in rows if r["method"].startswith("two_stage")} == {"image"}
    assert {r["reduce"] for r in rows if r["method"] == "contribution"} == set(content["reduce"])
    assert {r["reduce"] for r in rows if r["method"] == "random"} == {"mean"}
    both = [r for r in rows if r["method"] == "two_stage" and r["reduce"] == "mean"]
    assert both and all(0 < r["neurons"] <= 64 for r in both)
    assert all(json.loads(r["parameters"])["threshold"] == "fraction" for r in both)
    assert set(labels) <= {"text", "visual", "multimodal", "image"} and labels
    again = ingest(empty_atlas, job, Execution())
    assert not again.fresh


def test_negatives_change_the_contrast_and_the_run(empty_atlas: Path, llava_folder: Path) -> None:
    alone = {"model": str(llava_folder), "concepts": ["dog"], "sources": ["text"], "per_concept": 2}
    without = ingest(empty_atlas, make_job(alone), Execution())
    beside = ingest(empty_atlas, make_job(alone | {"negatives": 6}), Execution())
    assert without.run_id != beside.run_id
    assert without.outcome["maps"] == 1 and beside.outcome["maps"] == 2  # one concept alone has no contrast
    with pytest.raises(UsageError, match="no mentions called 'all'"):
        make_job(alone | {"mentions": "all"})
    counted = make_job(alone | {"methods": {"knowledge_neurons": {}}, "reduce": ["auroc"]})
    with pytest.raises(UsageError, match="knowledge_neurons has no auroc; add mean to reduce"):
        ingest(empty_atlas, counted, Execution())
