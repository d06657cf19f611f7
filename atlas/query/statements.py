"""SQL statements over an atlas: one function, one statement, one Arrow table.

Those that compare maps are in `atlas.query.compare_maps`. Percentiles are over all of a map's neurons: 100 for the
best, 100/n for the last of n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atlas.neurons import LANGUAGE, Neuron
from atlas.query.map_spec import MapSpec
from atlas.query.selection_rules import placed

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Query:
    """One SQL statement and its parameters, before it is run; `--explain` shows it."""

    sql: str
    parameters: Mapping[str, Any]

    def run(self, connection: duckdb.DuckDBPyConnection) -> pa.Table:
        """The rows as an Arrow table."""
        table: pa.Table = connection.sql(self.sql, params=dict(self.parameters)).to_arrow_table()
        return table

    def explained(self) -> str:
        """The SQL, with its parameters below it, as text."""
        values = "\n".join(f"-- ${name} = {value!r}" for name, value in self.parameters.items())
        return f"{self.sql}\n{values}" if values else self.sql


_ONE_MAP = "m.model_id, d.name, c.name, m.method, m.source, m.target, m.reduce, m.component, m.tap"
"""What the versions of one map, of several runs, have in common."""

_BEST = f"""QUALIFY row_number() OVER (
    PARTITION BY {_ONE_MAP}
    ORDER BY m.examples DESC, r.finished_at DESC, m.map_id DESC) = 1"""
"""The version of a map with the most examples, of equals the newest: a later, smaller run replaces nothing."""


def find_maps(spec: MapSpec, *, versions: bool = False) -> Query:
    """The maps that match, newest first: for every (model, dataset, concept, method, source, target, reduction) the
    version with the most examples, of equals the newest.

    versions: all versions.
    """
    where, values = spec.where()
    return Query(
        f"""
SELECT m.map_id, m.run_id, m.model_id, mo.name AS model, mo.fingerprint, coalesce(c.name, '*') AS concept,
       m.method, m.source, m.target, m.reduce, m.tap, m.component, m.parameters, m.examples, m.neurons, m.kept,
       m.mean, m.std, c.supercategory, mo.layers, mo.width, d.name AS dataset, r.finished_at,
       count(*) OVER (
           PARTITION BY {_ONE_MAP}
       ) AS versions,
       first_value(m.run_id) OVER latest AS newest_run, first_value(m.examples) OVER latest AS newest_examples
FROM maps m
JOIN runs r USING (run_id)
JOIN models mo ON mo.model_id = m.model_id
LEFT JOIN concepts c ON c.concept_id = m.concept_id
LEFT JOIN datasets d ON d.dataset_id = r.dataset_id
WHERE {where}
WINDOW latest AS (PARTITION BY {_ONE_MAP} ORDER BY r.finished_at DESC, m.map_id DESC)
{"" if versions else _BEST}
ORDER BY r.finished_at DESC, m.map_id""".strip(),
        values,
    )


def runs_beginning(prefix: str) -> Query:
    """The finished runs with maps whose id has this prefix."""
    sql = """
SELECT run_id FROM runs
WHERE starts_with(run_id, $prefix) AND status = 'done' AND kind = 'ingest' ORDER BY run_id"""
    return Query(sql.strip(), {"prefix": prefix})


def mapping_runs(spec: MapSpec) -> Query:
    """The runs that have matching maps, including those for which a newer run has the same map."""
    where, values = spec.where()
    return Query(
        f"""
SELECT DISTINCT m.run_id
FROM maps m JOIN runs r USING (run_id) JOIN models mo ON mo.model_id = m.model_id
LEFT JOIN concepts c ON c.concept_id = m.concept_id LEFT JOIN datasets d ON d.dataset_id = r.dataset_id
WHERE {where} ORDER BY m.run_id""".strip(),
        values,
    )


def best_concepts(neuron: Neuron, map_ids: Sequence[int], *, top: int = 5) -> Query:
    """For every method, source and reduction, the concepts in whose maps this neuron ranks best.

    rank and percentile are NULL of a score without a place of its own (`atlas.query.selection_rules.placed`).
    """
    return Query(
        f"""
WITH of_neuron AS (
    SELECT m.method, m.source, m.target, m.reduce, c.name AS concept, s.score, m.neurons,
           CASE WHEN {placed("s")} THEN s.rank END AS rank
    FROM scores s
    JOIN maps m USING (map_id)
    JOIN concepts c ON c.concept_id = m.concept_id
    WHERE s.map_id IN (SELECT unnest($maps::INTEGER[])) AND s.layer = $layer AND s.neuron = $neuron
        AND m.component = $component)
SELECT method, source, target, reduce, concept, score, rank, 100.0 * (neurons - rank + 1) / neurons AS percentile
FROM of_neuron
QUALIFY row_number() OVER (PARTITION BY method, source, target, reduce ORDER BY rank NULLS LAST, concept) <= $top
ORDER BY method, source, target, reduce, rank NULLS LAST, concept""".strip(),
        {**_address(neuron), "maps": list(map_ids), "top": top},
    )


def decoded_tokens(neuron: Neuron, model_id: int) -> Query:
    """The tokens a neuron raises and lowers most, by every stored projection: the one that is shown elsewhere first."""
    return Query(
        """
SELECT projection, side, tokens, "values"
FROM decodings
WHERE model_id = $model_id AND component = $component AND layer = $layer AND neuron = $neuron
ORDER BY projection DESC, side DESC""".strip(),
        {**_address(neuron), "model_id": model_id},
    )


def strongest_examples(neuron: Neuron, model_id: int) -> Query:
    """The examples on which a neuron has its largest values, of the newest run that kept any, by source."""
    return Query(
        """
WITH of_neuron AS (
    SELECT x.*, r.finished_at, r.dataset_id
    FROM exemplars x JOIN runs r USING (run_id)
    WHERE r.model_id = $model_id AND x.component = $component AND x.layer = $layer AND x.neuron = $neuron)
SELECT n.source, n.rank, n.value, n.token, n.role, n.position, e.task, e.prompt, e.answer, e.media, e.concepts,
       e.example_id AS example
FROM of_neuron n JOIN examples e ON e.example_id = n.example_id AND e.dataset_id = n.dataset_id
QUALIFY dense_rank() OVER (PARTITION BY n.source ORDER BY n.finished_at DESC, n.run_id) = 1
ORDER BY n.source, n.rank""".strip(),
        {**_address(neuron), "model_id": model_id},
    )


def strongest_example_each(neurons: Sequence[Neuron], fingerprint: str) -> Query:
    """Of each of some neurons of one model, the example on which it has its largest value, of every source; of the
    newest run that kept any."""
    return Query(
        """
WITH asked AS (SELECT unnest($components) AS component, unnest($layers) AS layer, unnest($neurons) AS neuron)
SELECT x.component, x.layer, x.neuron, x.source, x.value, x.token, e.prompt, e.answer, e.example_id AS example
FROM asked JOIN exemplars x USING (component, layer, neuron) JOIN runs r USING (run_id)
JOIN models m ON m.model_id = r.model_id AND m.fingerprint = $fingerprint
JOIN examples e ON e.example_id = x.example_id AND e.dataset_id = r.dataset_id
WHERE x.rank = 1
QUALIFY row_number() OVER (
    PARTITION BY x.component, x.layer, x.neuron, x.source ORDER BY r.finished_at DESC, r.run_id) = 1
ORDER BY ALL""".strip(),
        {
            "components": [n.component for n in neurons],
            "layers": [n.layer for n in neurons],
            "neurons": [n.index for n in neurons],
            "fingerprint": fingerprint,
        },
    )


def model_layers(fingerprint: str) -> Query:
    """The layers of the language model with these weights, and how many neurons each has."""
    sql = "SELECT DISTINCT layers, width FROM models WHERE fingerprint = $fingerprint"
    return Query(sql, {"fingerprint": fingerprint})


def _address(neuron: Neuron) -> dict[str, Any]:
    return {"component": neuron.component, "layer": neuron.layer, "neuron": neuron.index}


LISTS: Mapping[str, str] = {
    "models": """
SELECT name, revision, model_type, layers, width, layers * width AS neurons, d_model, vocabulary,
       fingerprint[1:12] AS fingerprint
FROM models ORDER BY model_id""",
    "datasets": "SELECT name, revision[1:12] AS revision, licence, path FROM datasets ORDER BY dataset_id",
    "runs": """
SELECT r.run_id[1:8] AS run, r.kind, r.status, m.name AS model, d.name AS dataset,
       CASE WHEN r.kind = 'ingest' THEN json_keys(r.job::JSON, '$.methods') END AS methods,
       (r.outcome::JSON ->> 'examples')::INTEGER AS examples, (r.outcome::JSON ->> 'maps')::INTEGER AS maps,
       (r.outcome::JSON ->> 'seconds')::DOUBLE AS seconds, r.started_at
FROM runs r LEFT JOIN models m USING (model_id) LEFT JOIN datasets d ON d.dataset_id = r.dataset_id
ORDER BY r.started_at""",
    "concepts": f"""
SELECT c.name AS concept, c.supercategory, d.name AS dataset, count(DISTINCT m.map_id) AS maps,
       list(DISTINCT m.source ORDER BY m.source) FILTER (m.source IS NOT NULL) AS sources,
       list(DISTINCT m.method ORDER BY m.method) FILTER (m.method IS NOT NULL) AS methods
FROM concepts c JOIN datasets d USING (dataset_id)
LEFT JOIN maps m ON m.concept_id = c.concept_id AND m.component = '{LANGUAGE}'
GROUP BY ALL ORDER BY maps DESC, c.name""",
    "edits": """
SELECT e.name, e.version, e.concept, e.changes, e.tap, e.solver, m.name AS model, e.created_at, e.note
FROM edits e JOIN models m USING (model_id) ORDER BY e.name, e.version""",
}


def concepts_by_model() -> Query:
    """The concepts that each model has maps of: model, supercategory, concept."""
    return Query(
        """
SELECT DISTINCT mo.name AS model, c.supercategory, c.name AS concept
FROM maps m JOIN models mo USING (model_id) JOIN concepts c USING (concept_id)
ORDER BY mo.name, c.supercategory NULLS FIRST, c.name""".strip(),
        {},
    )


def edits_of(neuron: Neuron | None, model: str | None) -> Query:
    """The edits of a model, or of a neuron with what each changes of it."""
    change = "" if neuron is None else ", c.gain, c.bias, c.noise, c.where"
    join = "" if neuron is None else "JOIN changes c USING (edit_id)"
    address = "AND c.component = $component AND c.layer = $layer AND c.neuron = $neuron" if neuron else ""
    return Query(
        f"""
SELECT e.name || '@' || e.version AS edit, e.concept{change}, e.changes, e.tap, e.solver, m.name AS model, e.created_at,
       e.note
FROM edits e JOIN models m USING (model_id) {join}
WHERE ($model IS NULL OR m.name = $model) {address}
ORDER BY e.name, e.version""".strip(),
        {"model": model} | ({} if neuron is None else _address(neuron)),
    )


def effects(run: str | None = None, edit: str | None = None, concept: str | None = None) -> Query:
    """Measured effects of edits and ablations: of one run, edit and concept, or of all."""
    return Query(
        """
SELECT e.edit, e.method, e.dose, e.reduce, e.target, e.concept, e.source, e.task, e.subset, e.condition, e.metric,
       e.value, e.low, e.high, e.examples, e.seeds, e.run_id[1:8] AS run
FROM effects e JOIN runs r USING (run_id)
WHERE ($run IS NULL OR e.run_id = $run) AND ($edit IS NULL OR e.edit = $edit)
    AND ($concept IS NULL OR e.concept = $concept)
ORDER BY r.finished_at, e.source, e.task, e.subset, e.condition, e.metric""".strip(),
        {"run": run, "edit": edit, "concept": concept},
    )


CHANCE_OF = {"knn_mixing": "knn_chance", "probe_accuracy": "probe_chance", "lens_entropy": "lens_uniform"}
"""A measure -> the measure of what chance gives it."""


def measures(run: str | None, name: str | None) -> Query:
    """Measures of layers and models: of one run or all, of one name, with its chance, or all."""
    return Query(
        """
SELECT m.name, m.method, m.concept, m.source, m.layer, m.first, m.second, m.condition, m.value, m.low, m.high,
       m.examples, m.run_id[1:8] AS run
FROM measures m JOIN runs r USING (run_id)
WHERE ($run IS NULL OR m.run_id = $run) AND ($name IS NULL OR m.name IN ($name, $chance))
ORDER BY r.finished_at, m.name, m.method, m.concept, m.source, m.layer, m.first, m.second, m.condition""".strip(),
        {"run": run, "name": name, "chance": CHANCE_OF.get(name or "", name)},
    )


def pointed(run: str | None) -> Query:
    """The layers and projections of which runs have points, of one run or of all, the newest run first."""
    return Query(
        """
SELECT DISTINCT p.run_id, p.layer, p.projection, r.finished_at FROM points p JOIN runs r USING (run_id)
WHERE $run IS NULL OR p.run_id = $run ORDER BY r.finished_at DESC, p.run_id, p.layer, p.projection""".strip(),
        {"run": run},
    )


def layer_points(run: str, layer: int, projection: str | None) -> Query:
    """The tokens of a layer in two dimensions, by one projection or by all."""
    return Query(
        """
SELECT p.projection, e.source, p.condition, p.layer, p.role, p.x, p.y, p.example_id AS example, p.position,
       p.run_id[1:8] AS run
FROM points p JOIN runs r USING (run_id) JOIN examples e ON e.example_id = p.example_id AND e.dataset_id = r.dataset_id
WHERE p.run_id = $run AND p.layer = $layer AND ($projection IS NULL OR p.projection = $projection)
ORDER BY p.projection, e.source, p.condition, p.role, p.example_id, p.position""".strip(),
        {"run": run, "layer": layer, "projection": projection},
    )


def distances(run: str, layer: int) -> Query:
    """The distances of the roles' centroids in a layer, by source and condition."""
    return Query(
        """
SELECT source, first, second, condition, value, examples FROM measures
WHERE run_id = $run AND layer = $layer AND name = 'centroid_distance' ORDER BY ALL""".strip(),
        {"run": run, "layer": layer},
    )


def listing(name: str) -> Query:
    """The list of one kind: models, datasets, runs, concepts or edits."""
    return Query(LISTS[name].strip(), {})
