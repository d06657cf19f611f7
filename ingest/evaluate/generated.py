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
"""What answers are compared with: the dataset's, or what the unedited model says (Sato & Takagi 2025)."""


def chosen_metrics(
    dataset: Dataset,
    tasks: Sequence[str],
    names: Sequence[str] | None,
    options: Mapping[str, Mapping[str, Any]],
    *,
    tell: list[str],
) -> dict[str, dict[str, Metric]]:
    """task -> its metrics: those that are named, for every task, or those that the dataset names for its tasks.

    tell: gets what the dataset names and this machine lacks; what is named here and lacks is refused.

    Raises:
        UsageError: an unknown metric or option. Unsupported: a metric's package or data is missing.
    """
    if names is not None:
        built = load_metrics(names, options)
        return dict.fromkeys(tasks, built) if built else {}
    usual = {task: dataset.metrics.get(task, ()) for task in tasks}
    wanted = list(dict.fromkeys(name for some in usual.values() for name in some))
    if idle := sorted(set(options) - set(wanted)):
        there = ", ".join(wanted) or "none"
        raise UsageError(
            f"options for '{idle[0]}', which is none of these tasks' metrics ({there}); add it to --metrics"
        )
    loaded: dict[str, Metric] = {}
    for name in wanted:
        try:
            loaded |= load_metrics([name], {k: v for k, v in options.items() if k == name})
        except Unsupported as error:
            tell.append(f"{name} was left out: {error}")
    mine = {task: {name: loaded[name] for name in some if name in loaded} for task, some in usual.items()}
    return {task: some for task, some in mine.items() if some}


def check_measures(
    names: Sequence[str] | None, options: Mapping[str, Mapping[str, Any]], against: str = REFERENCES
) -> None:
    """Raise UsageError for a name that is not a metric's, option's or `against`, before a model is loaded for it."""
    if against not in AGAINST:
        raise UsageError(f"no --against called '{against}'; there are: {', '.join(AGAINST)}")
    for name in dict.fromkeys([*(names or ()), *options]):
        registry.resolve(name, registry.load(ingest.metrics, name).build, dict(options.get(name, {})))


def plugin_metrics(dataset: Dataset, tasks: Iterable[str], names: Sequence[str] | None) -> dict[str, Any]:
    """Which distributions the plug-ins are from among the metrics that are named, or that the dataset names for its
    tasks (`registry.origins`)."""
    usual = {name for task in tasks for name in dataset.metrics.get(task, ())}
    return registry.origins({ingest.metrics: usual if names is None else names})


class AnswerEvaluator:
    """Held-out examples whose generated answers are judged; the first time they are asked is what comes before.

    metrics: task -> its metrics; examples of other tasks are left out. A question counts as about a concept where its
    example mentions it.
    """

    def __init__(
        self,
        feed: ExampleEncoder,
        examples: Sequence[Example],
        metrics: Mapping[str, Mapping[str, Metric]],
        concept: str | None,
        batch_size: int,
        against: str = REFERENCES,
    ):
        self.live = feed.live
        self.feed, self.metrics, self.concept, self.batch_size = feed, metrics, concept, batch_size
        self.against = against
        self.asked: list[tuple[Example, Prompt]] = []
        for example in examples:
            prompt = feed.prompt(example) if example.task in metrics else None
            if prompt is not None:
                self.asked.append((example, Prompt(prompt.ids, (), prompt.extras)))
        self._pictured = any(
            getattr(registry.load(ingest.metrics, name), "NEEDS_IMAGE", False)
            for some in metrics.values()
            for name in some
        )
        self._before: list[str] = []

    def ask(self) -> Scores:
        """Every metric of every answer; the caller's `with` block decides how the model is edited."""
        answers = generate_answers(self.feed, self.asked, self.batch_size, first=not self._before)
        self._before = self._before or answers
        values: dict[str, np.ndarray] = {}
        for task, metrics in self.metrics.items():
            index = [i for i, (e, _) in enumerate(self.asked) if e.task == task and self._references(i)]
            judged = [Judged(answers[i], self._references(i), self._image(self.asked[i][0])) for i in index]
            for name, scores in judge(metrics, judged).items() if judged else ():
                values.setdefault(name, np.full(len(answers), np.nan))[index] = scores
        return Scores(tuple(self._told(e) for e, _ in self.asked), values)

    def _references(self, number: int) -> tuple[str, ...]:
        example = self.asked[number][0]
        if self.against == REFERENCES:
            if example.references:
                return example.references
            if example.answer is not None:
                return (example.answer,)
        return (self._before[number],) if self._before[number] else ()

    def _image(self, example: Example) -> Any:
        return self.feed.dataset.image(example.media[0]) if self._pictured and example.source == IMAGE else None

    def _told(self, example: Example) -> QuestionKey:
        mentioned = frozenset(m.concept for m in example.mentions)
        concept = self.concept if self.concept in mentioned else ""
        return QuestionKey(example.source, example.task, concept or "", mentioned, example.cluster)


def generate_answers(
    feed: ExampleEncoder, asked: Sequence[tuple[Example, Prompt]], batch_size: int, *, first: bool
) -> list[str]:
    """The model's greedy answers as text, in the order of what is asked; batches of like length.

    first: the model is as it is, so its stored answers are taken, and new ones are stored.
    """
    decode, prompts = feed.live.encoder.decode, [prompt for _, prompt in asked]
    if first:
        made = feed.answers(asked, batch_size)
        return [decode(made[example.id]).strip() for example, _ in asked]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    found = [""] * len(order)
    for some in batches(order, batch_size):
        new = feed.live.generate([prompts[i] for i in some], max_new_tokens=feed.job.max_new_tokens)
        for i, ids in zip(some, new, strict=True):
            found[i] = decode(ids).strip()
    return found
