"""How the kinds of token lie in and flow through a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.option import COMMAS, described, option
from atlas.questions.measures import Measures
from ingest.requests.left_out import left_out
from ingest.requests.options import EXECUTION, JOB, ExampleOptions, LoadOptions, ModelOptions
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    import pyarrow as pa

    from ingest.analyse.geometry import AblatedNeurons


@described
class Geometry(Request[Answer], LoadOptions, ExampleOptions, ModelOptions):
    """How text, image and special tokens lie in each layer, and what the last one takes from each, with and without
    some neurons. Stored as measures and points.

    One row a layer, measure and condition; `facts` has `run_id`, `fresh` (False where the same had been measured
    before) and the `model`.

    Raises:
        UsageError: neurons of several origins or of another model; an unknown measure.
        Unsupported: scikit-learn, or for umap umap-learn, is not installed, or the model gives no attention weights.
    """

    edit: str | None = option("Look also with this stored edit applied.", default=None)
    labels: str | None = option("Look also without the neurons of a run of labels: RUN or RUN:LABEL.", default=None)
    of: str | None = option("Look also without saved neurons: 'dog & cat' (`atlas select ls`).", default=None)
    only: Sequence[str] | None = option("Only these measures, separated by commas.", default=None, several=COMMAS)
    layers: str | None = option("Only these layers: 3, 8-15.", default=None, of=JOB)
    sample: int = option("Tokens of each role, and examples, to keep.", default=200, least=1)
    neighbours: int = option("Nearest neighbours of a token.", default=10, least=1)
    projections: Sequence[str] = option(
        "pca, tsne, umap (needs umap-learn); '' for none.", default="pca,tsne", several=COMMAS
    )
    points: int = option("Tokens of each role to lay out.", default=100, least=1)
    batch_size: int = option("Examples in one forward pass.", default=16, of=EXECUTION, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.edit, self.labels, self.of).count(None) < 2:
            raise UsageError("look without the neurons of one of [[edit]], [[labels]] and [[of]]")

    def perform(self, path: Path, progress: Progress = silent) -> Answer:
        from ingest.analyse.geometry import GeometrySettings, measure
        from ingest.job import make_job

        job = make_job(self.content())
        settings = GeometrySettings(self.sample, self.neighbours, tuple(self.projections), self.points)
        done = measure(path, job, self.execution(), settings, self.ablated(path), progress)
        notes = left_out(done.skipped, path, done.run_id)
        if not done.fresh:
            notes.append(f"run {done.run_id[:8]} was done before; these are its stored measures")
        facts = {"run_id": done.run_id, "fresh": done.fresh, "model": job.model}
        answer = Answer(self._chosen(done.rows), facts=facts, notes=notes)
        answer.question = Measures(run=done.run_id)
        return answer

    def ablated(self, path: Path) -> AblatedNeurons | None:
        """The neurons to look without."""
        from atlas.edits.edit import Intervention
        from atlas.edits.kinds import ablate, make_changes
        from atlas.edits.library import read
        from atlas.edits.set_expression import of_expression
        from atlas.query.labels import labelled
        from atlas.query.provenance import fingerprint_of
        from ingest.analyse.geometry import AblatedNeurons

        if self.edit is not None:
            edit = read(path, self.edit).data
            return AblatedNeurons(edit.label, edit.intervention, edit.fingerprint)
        if self.of is not None:
            neurons, name = of_expression(path, self.of), self.of
        elif self.labels is not None:
            run, _, label = self.labels.partition(":")
            neurons, name = labelled(path, run, label or None), self.labels
        else:
            return None
        changes = make_changes(sorted(set(neurons.neurons)), ablate())
        return AblatedNeurons(name, Intervention(changes), fingerprint_of(neurons.provenance))

    def _chosen(self, rows: pa.Table) -> pa.Table:
        """The rows of the measures that were asked for."""
        import pyarrow as pa
        import pyarrow.compute as pc

        known = sorted(set(rows["name"].to_pylist()))
        for name in self.only or ():
            if name not in known:
                raise UsageError(f"no measure called '{name}'; there are: {', '.join(known)}")
        if self.only:
            rows = rows.filter(pc.is_in(rows["name"], pa.array(list(self.only))))
        return rows.drop_columns(["run_id", "method", "concept"])
