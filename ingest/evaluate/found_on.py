"""Whose answers neurons were found on: what evaluating them asks about, where it is not said."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from atlas.errors import AtlasWarning
from atlas.store.database import open_readonly
from ingest.data.answers import OWN


def answers_of_runs(atlas: Path, runs: Iterable[str]) -> str:
    """`answers` of the jobs of these runs. Where they differ it is "own", with a warning."""
    query = """
SELECT DISTINCT coalesce(job ->> 'answers', $own) FROM runs WHERE run_id IN (SELECT unnest($runs::VARCHAR[]))"""
    with open_readonly(atlas) as connection:
        found = {str(answers) for (answers,) in connection.execute(query, {"own": OWN, "runs": list(runs)}).fetchall()}
    if len(found) > 1:
        warnings.warn(
            f"the neurons were found on {' and '.join(sorted(found))} answers; the model's own are asked about; give "
            "[[answers]] to choose",
            AtlasWarning,
            stacklevel=2,
        )
    return found.pop() if len(found) == 1 else OWN
