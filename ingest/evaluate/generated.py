"""Generated answers judged by metrics, before and after an edit: captions, question answering, transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import ingest.metrics
from atlas import registry
from atlas.errors import Unsupported, UsageError
from atlas.live.encode import Prompt
from ingest.data.examples import IMAGE, Dataset, Example
from ingest.evaluate.metric import Judged, Metric, judge, load_metrics
from ingest.evaluate.teacher_forced import QuestionKey, Scores
from ingest.run.encode_examples import ExampleEncoder, batches

REFERENCES, BEFORE = AGAINST = ("references", "before")
"""What answers are compared with: the dataset's references, or the unedited model's answers (Sato & Takagi 2025)."""


def chosen_metrics(
    dataset: Dataset,
    tasks: Sequence[str],
    names: Sequence[str] | None,
    options: Mapping[str, Mapping[str, Any]],
    *,
    notes: list[str],
) -> dict[str, dict[str, Metric]]:
    """task -> its metrics: the given `names` for every task, or those that the dataset names for its tasks.

    notes: a note is added for each metric of the dataset that this machine lacks; a missing one of `names` is refused.

    Raises:
        UsageError: an unknown metric or option.
        Unsupported: a metric's package or data is missing.
    """
    if names is not None:
        built = load_metrics(names, options)
        return dict.fromkeys(tasks, built) if built else {}
    defaults = {task: dataset.metrics.get(task, ()) for task in tasks}
    metric_names = list(dict.fromkeys(name for chosen in defaults.values() for name in chosen))
    if unused := sorted(set(options) - set(metric_names)):
        available = ", ".join(metric_names) or "none"
        raise UsageError(
            f"options for '{unused[0]}', which is not among these tasks' metrics ({available}); add it to [[metrics]]"
        )
    loaded: dict[str, Metric] = {}
    for name in metric_names:
        try:
            loaded |= load_metrics([name], {k: v for k, v in options.items() if k == name})
        except Unsupported as error:
            notes.append(f"{name} was left out: {error}")
    metrics_by_task = {
        task: {name: loaded[name] for name in chosen if name in loaded} for task, chosen in defaults.items()
    }
    return {task: chosen for task, chosen in metrics_by_task.items() if chosen}


def check_measures(
    names: Sequence[str] | None, options: Mapping[str, Mapping[str, Any]], against: str = REFERENCES
) -> None:
    """Raise UsageError for an unknown metric, option or `against`, before a model is loaded."""
    if against not in AGAINST:
        raise UsageError(f"[[against]] is {' or '.join(AGAINST)}, not '{against}'")
    for name in dict.fromkeys([*(names or ()), *options]):
        registry.resolve(name, registry.load(ingest.metrics, name).build, dict(options.get(name, {})))


def plugin_metrics(dataset: Dataset, tasks: Iterable[str], names: Sequence[str] | None) -> dict[str, Any]:
    """The distributions of the plug-ins among the metrics: the given ones, or those that the dataset names for its
    tasks (`registry.origins`)."""
    default_names = {name for task in tasks for name in dataset.metrics.get(task, ())}
    return registry.origins({ingest.metrics: default_names if names is None else names})


class AnswerEvaluator:
    """Held-out examples whose generated answers are judged; the first call of `evaluate` gives the answers from before.

    metrics: task -> its metrics; examples of other tasks are left out. A question counts as about the concept where
    its example mentions it.
    """

    def __init__(
        self,
        encoder: ExampleEncoder,
        examples: Sequence[Example],
        metrics: Mapping[str, Mapping[str, Metric]],
        concept: str | None,
        batch_size: int,
        against: str = REFERENCES,
    ):
        self.live = encoder.live
        self.encoder, self.metrics, self.concept, self.batch_size = encoder, metrics, concept, batch_size
        self.against = against
        self.prompts: list[tuple[Example, Prompt]] = []
        for example in examples:
            prompt = encoder.prompt(example) if example.task in metrics else None
            if prompt is not None:
                self.prompts.append((example, Prompt(prompt.ids, (), prompt.extras)))
        self._pictured = any(
            getattr(registry.load(ingest.metrics, name), "NEEDS_IMAGE", False)
            for task_metrics in metrics.values()
            for name in task_metrics
        )
        self._before: list[str] = []

    def evaluate(self) -> Scores:
        """Every metric of every answer; the caller's `with` block decides how the model is edited."""
        answers = generate_answers(self.encoder, self.prompts, self.batch_size, first=not self._before)
        self._before = self._before or answers
        values: dict[str, np.ndarray] = {}
        for task, metrics in self.metrics.items():
            index = [i for i, (e, _) in enumerate(self.prompts) if e.task == task and self._references(i)]
            judged = [Judged(answers[i], self._references(i), self._image(self.prompts[i][0])) for i in index]
            for name, scores in judge(metrics, judged).items() if judged else ():
                values.setdefault(name, np.full(len(answers), np.nan))[index] = scores
        return Scores(tuple(self._question_key(e) for e, _ in self.prompts), values)

    def _references(self, number: int) -> tuple[str, ...]:
        example = self.prompts[number][0]
        if self.against == REFERENCES:
            if example.references:
                return example.references
            if example.answer is not None:
                return (example.answer,)
        return (self._before[number],) if self._before[number] else ()

    def _image(self, example: Example) -> Any:
        return self.encoder.dataset.image(example.media[0]) if self._pictured and example.source == IMAGE else None

    def _question_key(self, example: Example) -> QuestionKey:
        mentioned = frozenset(m.concept for m in example.mentions)
        concept = self.concept if self.concept in mentioned else ""
        return QuestionKey(example.source, example.task, concept or "", mentioned, example.cluster)


def generate_answers(
    encoder: ExampleEncoder, prompted: Sequence[tuple[Example, Prompt]], batch_size: int, *, first: bool
) -> list[str]:
    """The model's greedy answers as text, in the order of the prompts; batched by length.

    first: whether the model is unedited, so that stored answers are reused and new ones are stored.
    """
    decode, prompts = encoder.live.encoder.decode, [prompt for _, prompt in prompted]
    if first:
        stored = encoder.answers(prompted, batch_size)
        return [decode(stored[example.id]).strip() for example, _ in prompted]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    texts = [""] * len(order)
    for chunk in batches(order, batch_size):
        generated = encoder.live.generate([prompts[i] for i in chunk], max_new_tokens=encoder.job.max_new_tokens)
        for i, ids in zip(chunk, generated, strict=True):
            texts[i] = decode(ids).strip()
    return texts
