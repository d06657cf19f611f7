"""Whose answers neurons were found on: what evaluating them asks about, where it is not said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from atlas.store.database import open_readonly
from ingest.data.answers import OWN
from ingest.job import Job


def answers_of_runs(atlas: Path, runs: Iterable[str]) -> str:
    """`answers` of the jobs of these runs; "own" where they differ or there are none."""
    query = """
SELECT DISTINCT coalesce(job ->> 'answers', $own) FROM runs WHERE run_id IN (SELECT unnest($runs::VARCHAR[]))"""
    with open_readonly(atlas) as connection:
        found = connection.execute(query, {"own": OWN, "runs": list(runs)}).fetchall()
    return str(found[0][0]) if len(found) == 1 else OWN


def answers_of_maps(atlas: Path, job: Job, methods: Sequence[str]) -> str:
    """`answers` of the jobs that made these methods' maps of the job's model and dataset."""
    query = """
SELECT DISTINCT m.run_id FROM maps m JOIN runs r USING (run_id) JOIN models mo ON mo.model_id = r.model_id
JOIN datasets d ON d.dataset_id = r.dataset_id
WHERE mo.name = $model AND d.name = $dataset AND m.method IN (SELECT unnest($methods::VARCHAR[]))"""
    named = {"model": job.model, "dataset": job.dataset.partition(":")[0], "methods": list(methods)}
    with open_readonly(atlas) as connection:
        runs = [run for (run,) in connection.execute(query, named).fetchall()]
    return answers_of_runs(atlas, runs)
