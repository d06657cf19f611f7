"""Where the tokens of a layer lie in two dimensions."""

from __future__ import annotations

from pathlib import Path

from atlas.errors import UsageError, unknown
from atlas.query.answer import Answer
from atlas.query.option import described, option
from atlas.query.provenance import Provenance
from atlas.query.question import Question
from atlas.query.run_record import run_named
from atlas.query.statements import distances, layer_points, pointed
from atlas.store.database import open_readonly


@described
class Points(Question[Answer]):
    """Where sampled tokens of a layer lie in two dimensions, as `atlas geometry` laid them out: one row a token.

    projection, source, condition, layer, role, x, y, example and position. Layer 0 is the embeddings. condition: before
    or, of a run with one, with its edit: by pca on the axes of before; the other layouts are made anew, and only start
    there. parts["distances"]: the distance (1 - cosine) of every two roles' centroids there, before, and with the edit
    and random neurons of the run.

    Raises:
        UsageError: no run has points, no run or several have the prefix, or no such layer or projection.
    """

    examples = ("atlas points --layer 2",)

    run: str | None = option("The run, by the beginning of its id. [default: the newest with points]", default=None)
    layer: int | None = option("The layer. [default: the last]", default=None)
    projection: str | None = option("Only this one: pca, tsne or umap.", default=None)

    def answer(self, path: Path) -> Answer:
        with open_readonly(path) as connection:
            run = None if self.run is None else run_named(connection, self.run)
            stored = pointed(run).run(connection).to_pylist()
            if not stored:
                raise UsageError("no tokens are laid out yet: `atlas geometry --model tiny-llava` lays out some")
            run = str(stored[0]["run_id"])
            layers, projections = (
                sorted({row[name] for row in stored if row["run_id"] == run}) for name in ("layer", "projection")
            )
            layer = layers[-1] if self.layer is None else self.layer
            if layer not in layers:
                raise UsageError(f"run {run[:8]} has points of the layers {', '.join(map(str, layers))}, not {layer}")
            if self.projection not in (None, *projections):
                raise unknown("projection", str(self.projection), projections, "atlas points")
            statement = layer_points(run, layer, self.projection)
            rows = statement.run(connection)
            parts = {"distances": distances(run, layer).run(connection)}
        others = [str(other) for other in layers if other != layer]
        assumed = [f"layer={layer} (also stored: {', '.join(others)})"] if self.layer is None and others else []
        provenance: Provenance = {"assumed": assumed}
        return Answer(rows, provenance, facts={"run": run, "layer": layer}, parts=parts, sql=statement.explained())
