"""docs/lake.md is run: what it says of a folder of Parquet is what the atlas itself answers, without our code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from atlas.share.export import export
from atlas.store.database import open_readonly

LAKE = Path(__file__).resolve().parents[2] / "docs" / "lake.md"
OURS = """
SELECT m.method, m.source, m.reduce, s.layer, s.neuron, s.score, s.rank{}
FROM maps m JOIN concepts c USING (concept_id) JOIN scores s USING (map_id)
LEFT JOIN decodings d ON d.model_id = m.model_id AND d.layer = s.layer AND d.neuron = s.neuron
    AND d.component = 'language' AND d.projection = 'z' AND d.side = 'top'
WHERE c.name = 'dog' AND s.rank <= 5 ORDER BY m.method, m.source, m.reduce, s.rank"""


def snippet(name: str) -> str:
    found = re.search(rf"<!-- run: {name} -->\n```\w+\n(.*?)```", LAKE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def answered(path: Path, more: str = "") -> list[tuple[Any, ...]]:
    with open_readonly(path) as connection:
        found = connection.execute(OURS.format(more)).fetchall()
    assert len(found) >= 20
    return found


@pytest.fixture(params=["atlas", "bundle"])
def lake(request: pytest.FixtureRequest, stored_atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An atlas in whose folder, or in that of a bundle of it, the snippets are run."""
    folder = stored_atlas if request.param == "atlas" else export(stored_atlas, tmp_path / "bundle").folder
    monkeypatch.chdir(folder)
    return stored_atlas


def test_duckdb_answers_as_the_atlas_does(lake: Path) -> None:
    with duckdb.connect() as connection:
        assert connection.execute(snippet("duckdb")).fetchall() == answered(lake, ", d.tokens")


def test_pyarrow_answers_as_the_atlas_does(lake: Path) -> None:
    scope: dict[str, Any] = {}
    exec(snippet("pyarrow"), scope)
    table: pa.Table = scope["table"]
    names = ("method", "source", "reduce", "layer", "neuron", "score", "rank")
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == answered(lake)


def test_every_table_of_a_run_is_in_the_document() -> None:
    from atlas.store.run_manifest import SHARDS

    text = LAKE.read_text(encoding="utf-8")
    assert [name for name in SHARDS if f"{name}.parquet" not in text] == []
