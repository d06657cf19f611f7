"""The media of stored examples, opened from the datasets that they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from duckdb import DuckDBPyConnection as Connection

from atlas.errors import UsageError
from atlas.live.media import Clip, Medium, Sound
from atlas.query.statements import Query
from ingest.data.examples import AUDIO, VIDEO, Dataset
from ingest.job import DataSpec, open_dataset

COLUMNS = "e.*, r.run_id, r.job, d.name AS dataset, d.path, d.revision"
"""What `StoredMedia` needs of the example e, the run r and the dataset d."""

_BY_ID = f"""
SELECT {COLUMNS}
FROM examples e JOIN datasets d USING (dataset_id) JOIN runs r USING (dataset_id)
WHERE list_contains($ids, e.example_id) AND r.status = 'done'
QUALIFY row_number() OVER (PARTITION BY e.example_id ORDER BY r.finished_at DESC, r.run_id) = 1"""


def examples_with(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Stored examples by their whole ids, each with the newest run over its dataset."""
    rows = Query(_BY_ID.strip(), {"ids": list(ids)}).run(connection).to_pylist()
    return {str(row["example_id"]): row for row in rows}


class StoredMedia:
    """Opens media of stored examples; every dataset is opened once."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}

    def dataset(self, row: Mapping[str, Any]) -> Dataset:
        """The dataset of an example. row: with the columns `COLUMNS`.

        Raises:
            UsageError: it is gone, or is no longer the one that was ingested.
        """
        run_id = str(row["run_id"])
        if run_id not in self._datasets:
            name = row["dataset"] if row["path"] is None else f"{row['dataset']}:{row['path']}"
            options = json.loads(row["job"]).get("options") or {}
            self._datasets[run_id] = open_dataset(DataSpec(dataset=name, options=options))
        dataset = self._datasets[run_id]
        if dataset.revision != row["revision"]:
            raise UsageError(f"the dataset {row['dataset']} is not the one that was ingested: its revision has changed")
        return dataset

    def open(self, row: Mapping[str, Any]) -> tuple[Medium, ...]:
        """An example's media, in order. row: with the columns `COLUMNS`.

        Raises:
            UsageError: as `dataset`; BadMedia: a file is missing, corrupt or too large.
        """
        if not row["media"]:
            return ()
        dataset = self.dataset(row)
        return tuple(_opened(dataset, row["source"], pointer) for pointer in row["media"])


def _opened(dataset: Any, source: str, pointer: str) -> Medium:
    if source == AUDIO:
        return Sound(*dataset.audio(pointer))
    if source == VIDEO:
        return Clip(tuple(dataset.video(pointer)))
    picture: Medium = dataset.image(pointer)
    return picture
