"""The leaderboard against the same numbers computed from the tables one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from atlas import Atlas
from atlas.database import reading
from atlas.errors import UsageError
from ingest.job import Execution, Job
from ingest.suppression import count_of, survey

METHODS = ("contribution", "activation", "gradient_x_activation", "random")


@pytest.fixture
def surveyed(own_atlas: Path, small_job: Job) -> Path:
    job = replace(small_job, split="held_out", per_concept=2)
    survey(own_atlas, job, Execution(), methods=["contribution", "activation"], tops=["5%", "20"], seeds=1)
    return own_atlas


def test_every_number_equals_the_one_from_the_tables(surveyed: Path) -> None:
    found = {(r["method"], r["source"]): r for r in Atlas(surveyed).leaderboard().to_pylist()}
    assert set(found) == {(m, s) for m in METHODS for s in ("image", "text")}
    with reading(surveyed) as connection:
        effects = connection.sql("SELECT * FROM effects WHERE metric = 'accuracy' AND task = '*'").to_arrow_table()
        scores = connection.sql(
            """SELECT m.method, m.source, m.reduce, c.name AS concept, s.layer, s.neuron, s.score FROM scores s
            JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)"""
        ).to_arrow_table()
    rows, cells = effects.to_pylist(), scores.to_pylist()
    for (method, source), row in found.items():
        correlations, precisions = [], []
        for concept in ("cat", "dog"):
            by_neuron = [
                {
                    (c["layer"], c["neuron"]): c["score"]
                    for c in cells
                    if (c["method"], c["source"], c["concept"], c["reduce"]) == (name, source, concept, row["reduce"])
                }
                for name in (method, "ablation")
            ]
            mine, theirs = (np.array([scored[n] for n in sorted(scored)]) for scored in by_neuron)
            correlations.append(spearmanr(mine, theirs).statistic)
            tops = [set(np.argsort(-x, kind="stable")[:3].tolist()) for x in (mine, theirs)]  # 2 % of 128
            precisions.append(len(tops[0] & tops[1]) / 3)
        assert row["correlation"] == pytest.approx(np.mean(correlations), abs=1e-4)
        assert row["precision_2"] == pytest.approx(np.mean(precisions))
        for effect in row["effects"] or []:
            for name, subset, condition in (
                ("own", "concept", "edit"),
                ("others", "others", "edit"),
                ("random_own", "concept", "random"),
                ("others_before", "others", "before"),
            ):
                values = [
                    r["value"]
                    for r in rows
                    if r["edit"].startswith(f"{method}:{effect['top']}:")
                    and (r["source"], r["subset"], r["condition"]) == (source, subset, condition)
                ]
                assert effect[name] == pytest.approx(np.mean(values))
        assert row["reduce"] == ("mean" if method == "random" else "contrast") and row["concepts"] == 2
        if method in ("gradient_x_activation", "random"):
            assert row["effects"] is None and row["selectivity"] is None
        else:
            assert [e["top"] for e in row["effects"]] == ["5%", "20"]
            gaps = [e["others"] - e["own"] for e in row["effects"]]
            assert row["selectivity"] == pytest.approx(np.mean(gaps))


def test_how_many_neurons_a_share_is() -> None:
    assert [count_of(text, 2048) for text in ("40", "0.5%", "1%", "0.001%", "100%")] == [40, 10, 20, 1, 2048]
    for wrong in ("0", "-3", "0%", "120%", "2049", "many", "1.5"):
        with pytest.raises(UsageError, match="write 40, or 2%"):
            count_of(wrong, 2048)
