"""Measure what an edit, or a method's best neurons, do to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.edits.library import StoredEdit
from atlas.errors import UsageError
from atlas.query.answer import Answer
from atlas.query.option import COMMAS, PAIRS, described, option
from atlas.questions.effects import Effects
from ingest.requests.edit_job import job_of
from ingest.requests.left_out import left_out
from ingest.requests.options import EXECUTION, JOB, DrawingOptions, ExampleOptions, LoadOptions, ModelOptions
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request

if TYPE_CHECKING:
    from atlas.edits.edit import Edit
    from ingest.evaluate.effects import Evaluation

DRAWN = ("drawn", "became", "region_overlap")
"""Of pictures, where any were drawn."""

SWAPPED = ("success", "whole_success", "wanted_probability", "said", "whole_unchanged", "kl")
OF_WORDS = ("accuracy", "log_probability")
"""Side by side: the log-probability moves where the accuracy is 0 or 1 already."""

SHOWN = (*OF_WORDS, *DRAWN, *SWAPPED)
"""The metrics that a person is shown; all of them are rows of the answer."""

UNSHOWN = ("unchanged", "said_probability")


@described
class Evaluate(Request[Answer], LoadOptions, DrawingOptions, ExampleOptions, ModelOptions):
    """What an edit does on held-out examples, to its concept and to the others, beside as many random neurons.

    Without an edit: the same for methods, every concept's best neurons ablated at every dose, averaged over the
    concepts (`atlas leaderboard` sets several methods side by side).

    One row a source, task, subset, condition and metric; of a method also one for each other concept, all tasks
    together (subset about:CONCEPT; `atlas cross-ablation` compares them). `facts` has `run_id` and `fresh`, False where
    the same had been measured before.

    Raises:
        UsageError: neither an edit nor a method, or both; the model's weights are not the edit's; nothing to ask.
    """

    edit: str | StoredEdit | None = option(
        "The edit: name, or name@version.", "--edit", default=None, argument=True, kw_only=False
    )
    method: Sequence[str] | None = option(
        "Attribution methods, separated by commas.", "--method", "--methods", default=None, several=COMMAS
    )
    reduce: str | None = option("With [[method]]: mean over the concept's examples, or contrast.", default=None)
    target: str | None = option("With [[method]]: what its maps explain, text or image (what is drawn).", default=None)
    doses: Sequence[str] | None = option(
        "With [[method]]: how many neurons: 40, or 0.5%,1%,2%. [default: 40]",
        "--doses",
        "--top",
        "-n",
        default=None,
        several=COMMAS,
    )
    metrics: Sequence[str] | None = option(
        "Of whole answers: bleu,rouge_l,cider,... or none. [default: those the dataset names]",
        default=None,
        several=COMMAS,
    )
    metric_option: Mapping[str, Any] | None = option("METRIC.KEY=VALUE; repeatable.", default=None, several=PAIRS)
    bertscore_model: str | None = option("The encoder of bertscore: a folder or HuggingFace id.", default=None)
    clipscore_model: str | None = option("The CLIP of clipscore: a folder or HuggingFace id.", default=None)
    bleurt_model: str | None = option("The BLEURT of bleurt: a folder or HuggingFace id.", default=None)
    against: str = option("Judge answers by the dataset's references, or by those from before.", default="references")
    split: str | None = option(
        "Which examples: find, held_out or all. [default: held_out; all of a dataset that the neurons were not found "
        "on]",
        default=None,
        of=JOB,
    )
    seeds: int = option("How many draws of random neurons.", default=5, least=0)
    controls: str | None = option(
        "Random neurons of the same layers, or layers and mean |activation|: layers or activation. [default: "
        "activation, where it is stored]",
        default=None,
    )
    judge: str | None = option(
        "Of drawn pictures: an image classifier or CLIP. [default: the model's own]", default=None
    )
    pictures: Path | None = option("Save drawn pictures, before and with the edit, in this folder.", default=None)
    batch_size: int = option("Examples in one forward pass.", default=64, of=EXECUTION, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.edit, StoredEdit):
            object.__setattr__(self, "edit", self.edit.label)
        if (self.edit is None) == (self.method is None):
            raise UsageError(
                "name an edit, or a [[method]]: atlas evaluate no-dog, atlas evaluate --method contribution"
            )
        if self.edit is not None and (self.reduce or self.target or self.doses):
            raise UsageError(
                "[[reduce]], [[target]] and [[doses]] choose neurons for [[method]]; the edit has its own: leave them "
                "out"
            )
        if self.edit is None and self.pictures is not None:
            raise UsageError("[[pictures]] are of one edit: store it (`atlas edit create`) and evaluate it by name")
        if self.edit is None and (self.metrics is not None or self.metric_options()):
            raise UsageError(
                "[[metrics]] judge what an edit does: store one (`atlas edit create`) and evaluate it by name"
            )

    def metric_options(self) -> dict[str, dict[str, Any]]:
        """The options of every metric that has some."""
        options: dict[str, dict[str, Any]] = {}
        for key, value in (self.metric_option or {}).items():
            metric, dot, name = key.partition(".")
            if not dot:
                raise UsageError(f"[[metric_option={key}=...]] needs a metric before a dot, as in rouge_l.stemmer=true")
            options.setdefault(metric, {})[name] = value
        models = {"bertscore": self.bertscore_model, "clipscore": self.clipscore_model, "bleurt": self.bleurt_model}
        for metric, model in models.items():
            if model is not None:
                options.setdefault(metric, {})["model"] = model
        return options

    def perform(self, path: Path, progress: Progress = silent) -> Answer:
        evaluation, brief = (
            self._of_methods(path, progress) if self.edit is None else self._of_edit(path, str(self.edit))
        )
        notes = [*left_out(evaluation.skipped, path, evaluation.run_id), *evaluation.notes]
        if not evaluation.fresh:
            notes.append(f"run {evaluation.run_id[:8]} was done before; these are its stored effects")
        facts = {"run_id": evaluation.run_id, "fresh": evaluation.fresh}
        answer = Answer(pa.Table.from_pylist(list(evaluation.rows)), facts=facts, notes=notes, brief=brief)
        answer.question = Effects(run=evaluation.run_id)
        return answer

    def _of_methods(self, path: Path, progress: Progress) -> tuple[Evaluation, pa.Table]:
        from ingest.evaluate.methods import ablate_tops, averages
        from ingest.job import make_job

        done = ablate_tops(
            path,
            make_job({"split": "held_out"} | self.content()),
            self.execution(),
            methods=tuple(self.method or ()),
            tops=tuple(self.doses or ("40",)),
            reduce=self.reduce,
            target=self.target,
            judge=self.judge,
            seeds=self.seeds,
            controls=self.controls,
            answers_as_found=self.answers is None,
            progress=progress,
        )
        return done, averages(done.rows)

    def _of_edit(self, path: Path, name: str) -> tuple[Evaluation, pa.Table]:
        from atlas.edits.library import read

        edit = read(path, name).data  # before torch is imported
        from ingest.evaluate.edit import Measures, evaluate

        metrics = None if self.metrics is None else tuple(m for m in self.metrics if m != "none")
        measures = Measures(metrics, self.metric_options(), self.against, self.judge, self.pictures)
        done = evaluate(
            path,
            edit,
            job_of(path, edit, self.content()),
            self.execution(),
            seeds=self.seeds,
            controls=self.controls,
            measures=measures,
        )
        return replace(done, notes=(*done.notes, _cost(edit, done))), _brief(edit, done)


def _cost(edit: Edit, done: Evaluation) -> str:
    from ingest.evaluate.effects import MODEL

    values = {(r["condition"], r["metric"]): r["value"] for r in done.rows if r["subset"] == MODEL}
    return (
        f"{edit.label}: {values['edit', 'changed_parameters']:,.0f} parameters of {len(edit.neurons)} neurons; "
        f"asking took {values['before', 'seconds']:.1f} s before, {values['edit', 'seconds']:.1f} s with it"
    )


def _brief(edit: Edit, done: Evaluation) -> pa.Table:
    """The metrics of an edit's kind, and those of whole answers."""
    from ingest.evaluate.effects import MODEL, table

    of_answers = [
        row["metric"] for row in done.rows if row["metric"] not in (*SHOWN, *UNSHOWN) and row["subset"] != MODEL
    ]
    of_kind = [m for m in SHOWN if edit.solver is not None or m in (*OF_WORDS, *DRAWN)]
    return table(done.rows, tuple(dict.fromkeys([*of_kind, *of_answers])))
