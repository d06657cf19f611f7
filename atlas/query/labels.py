"""Stored labels: which exist, which neurons have them, and how they are distributed over the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.errors import UsageError, unknown
from atlas.neurons import Neuron
from atlas.query.decoded import token_notes, tokens_of
from atlas.query.neuron_set import NeuronSet
from atlas.query.statements import Query
from atlas.store.database import open_readonly

_LISTED = """
SELECT l.run_id[1:8] AS run, r.kind, m.name AS model, l.rule, l.label, count(*) AS neurons,
       min(l.score) AS least, max(l.score) AS largest
FROM labels l JOIN runs r USING (run_id) LEFT JOIN models m USING (model_id)
GROUP BY l.run_id, r.kind, r.finished_at, m.name, l.rule, l.label ORDER BY r.finished_at, l.run_id, l.rule, l.label"""

_NEURONS = f"""
SELECT l.component, l.layer, l.neuron, l.label, l.score, d.tokens[1:5] AS tokens
FROM labels l JOIN runs r USING (run_id)
{tokens_of("l", "r.model_id")}
WHERE l.run_id = $run AND ($label IS NULL OR l.label = $label)
ORDER BY l.score DESC, l.layer, l.neuron, l.label LIMIT $top"""

_OF_NEURON = """
WITH counted AS (
    SELECT *, count(*) OVER (PARTITION BY run_id, rule, label) AS neurons FROM labels)
SELECT l.run_id[1:8] AS run, m.name AS model, l.rule, l.label, l.score, l.neurons
FROM counted l JOIN runs r USING (run_id) LEFT JOIN models m USING (model_id)
WHERE l.component = $component AND l.layer = $layer AND l.neuron = $neuron AND ($model IS NULL OR m.name = $model)
ORDER BY r.finished_at, l.run_id, l.rule, l.label"""

_LAYERS = """
SELECT layer, label, count(*) AS neurons,
       count(*) FILTER (labels > 1) AS also_other
FROM (SELECT *, count(*) OVER (PARTITION BY component, layer, neuron, rule) AS labels FROM labels WHERE run_id = $run)
GROUP BY layer, label ORDER BY layer, label"""

_OVERLAPS = """
SELECT a.label AS first, b.label AS second, count(*) AS neurons
FROM labels a JOIN labels b ON a.run_id = b.run_id AND a.rule = b.rule AND a.component = b.component
    AND a.layer = b.layer AND a.neuron = b.neuron AND a.label < b.label
WHERE a.run_id = $run GROUP BY ALL ORDER BY ALL"""


def listing(path: Path) -> pa.Table:
    """Every label of every run: its rule, how many neurons have it, the range of their scores."""
    with open_readonly(path) as connection:
        return Query(_LISTED.strip(), {}).run(connection)


def of_neuron(path: Path, neuron: Neuron, model: str | None) -> pa.Table:
    """The labels of one neuron: run, model, rule, label, score, and how many neurons of the run have the label."""
    where = {"component": neuron.component, "layer": neuron.layer, "neuron": neuron.index, "model": model}
    with open_readonly(path) as connection:
        return Query(_OF_NEURON.strip(), where).run(connection)


def labelled(path: Path, run: str, label: str | None = None, *, top: int | None = None) -> NeuronSet:
    """The neurons that a run labelled, highest score first. A neuron with two labels has two rows.

    run: the beginning of its id. label: only this one.

    Raises:
        UsageError: no run with labels has this prefix, or several do; no such label.
    """
    with open_readonly(path) as connection:
        row = _run(connection, run)
        labels = [
            r[0]
            for r in connection.execute("SELECT DISTINCT label FROM labels WHERE run_id = $run", row["run"]).fetchall()
        ]
        if label is not None and label not in labels:
            raise unknown("label of this run", label, labels, "atlas labels ls")
        parameters = {**row["run"], "label": label, "top": 2**31 - 1 if top is None else top}
        rows = Query(_NEURONS.strip(), parameters).run(connection)
        notes = token_notes(connection, [row["model_id"]])
    labels_record = {"run_id": row["run"]["run"], "label": label}
    return NeuronSet(rows, {"fingerprint": row["fingerprint"], "labels": labels_record, "assumed": notes})


def layers(path: Path, run: str) -> tuple[pa.Table, pa.Table, str]:
    """For every layer and label, the neurons and how many of them have another label too; for every two labels, the
    neurons that have both; and the run's id."""
    with open_readonly(path) as connection:
        parameters = _run(connection, run)["run"]
        counts, overlaps = (Query(sql.strip(), parameters).run(connection) for sql in (_LAYERS, _OVERLAPS))
        return counts, overlaps, str(parameters["run"])


def _run(connection: Any, prefix: str) -> dict[str, Any]:
    """The one run with labels whose id has this prefix, as a query's parameters, and its model's fingerprint and id."""
    query = """
SELECT DISTINCT l.run_id, m.fingerprint, m.model_id
FROM labels l JOIN runs r USING (run_id) LEFT JOIN models m USING (model_id)
ORDER BY l.run_id"""
    rows = connection.execute(query).fetchall()
    matching = [row for row in rows if row[0].startswith(prefix)]
    if len(matching) == 1:
        return {"run": {"run": matching[0][0]}, "fingerprint": matching[0][1], "model_id": matching[0][2]}
    if matching:
        raise UsageError(
            f"several runs with labels begin with '{prefix}': {', '.join(row[0][:12] for row in matching[:5])}"
        )
    raise unknown("run with labels", prefix, [row[0][:8] for row in rows], "atlas labels ls")
