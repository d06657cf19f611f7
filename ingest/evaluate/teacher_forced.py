"""Evaluate held-out questions under any number of conditions: teacher-forced, word by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.neurons import PRODUCT
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import Trace, traced
from ingest.data.examples import TEXT, Example
from ingest.run.encode_examples import ExampleEncoder, batches

ACCURACY, LOG_PROBABILITY, KL, UNCHANGED = "accuracy", "log_probability", "kl", "unchanged"


@dataclass(frozen=True, slots=True)
class QuestionKey:
    """What identifies a question: the concept that the target stands for, all concepts that the example mentions, and
    the group of examples that are nearly the same (`Example.cluster`)."""

    source: str
    task: str
    concept: str
    mentioned: frozenset[str]
    cluster: str


@dataclass(frozen=True, slots=True)
class Scores:
    """Questions and, in the same order, their values: metric -> (questions,) float, NaN where it was not measured."""

    questions: tuple[QuestionKey, ...]
    values: Mapping[str, np.ndarray]


class TeacherForced:
    """Held-out questions, encoded once, put to a model under any number of conditions.

    `kl` and `unchanged` compare with the first call of `evaluate`, on the unedited model; its log-probabilities are
    kept: (target tokens, vocabulary) float32 on the CPU.
    """

    def __init__(self, encoder: ExampleEncoder, examples: Sequence[Example], batch_size: int):
        """encoder: of the model and the examples' dataset."""
        self.live, self.encoder, self.batch_size = encoder.live, encoder, batch_size
        self.examples = list(examples)
        self.items: dict[str, list[Item]] = {}
        for source in dict.fromkeys(e.source for e in self.examples):
            numbered = [(n, e) for n, e in enumerate(self.examples) if e.source == source and e.target == TEXT]
            self.items[source] = shortest_first(encoder.items(numbered, batch_size))
        if not any(self.items.values()) and all(e.target == TEXT for e in self.examples):
            raise UsageError(
                "no held-out answer mentions a concept; give other [[concepts]] or a larger [[per_concept]]"
            )
        self._before: list[Tensor] = []

    def concepts(self) -> set[str]:
        """The concepts that the questions are about."""
        drawn_concepts = {m.concept for e in self.examples if e.target != TEXT for m in e.mentions}
        return drawn_concepts | {
            target.concept for items in self.items.values() for item in items for target in item.targets
        }

    @torch.no_grad()
    def evaluate(self) -> Scores:
        """The model's score on every question as it is now; the caller's `with` block decides how it is edited.

        accuracy: whether every token of the words is the model's first choice. log_probability: the mean over their
        tokens. kl: the mean KL(before || now) there. unchanged: whether the first choices are the same as before.
        """
        questions: list[QuestionKey] = []
        tensors_by_metric: dict[str, list[Tensor]] = {name: [] for name in (ACCURACY, LOG_PROBABILITY, KL, UNCHANGED)}
        chunk_number, first = 0, not self._before
        for source, items in self.items.items():
            for chunk in batches(items, self.batch_size):
                with traced(self.live, chunk, source, layers=[], tap=PRODUCT, grad=False) as trace:
                    logp = self.live.logits(trace.final_at_targets()[1]).log_softmax(-1)
                if first:
                    self._before.append(logp.cpu())
                for name, values in pair_metrics(trace, logp, self._before[chunk_number].to(logp)).items():
                    tensors_by_metric[name].append(values.cpu())
                chunk_number += 1
                for row, concept in zip(trace.pairs.tolist(), trace.concepts, strict=True):
                    example = self.examples[chunk[row].number]
                    mentioned = frozenset(m.concept for m in example.mentions)
                    questions.append(QuestionKey(source, example.task, concept, mentioned, example.cluster))
        arrays = {
            n: torch.cat(values).double().numpy() if values else np.zeros(0) for n, values in tensors_by_metric.items()
        }
        return Scores(tuple(questions), arrays)


def pair_metrics(trace: Trace, logp: Tensor, before: Tensor) -> dict[str, Tensor]:
    """Each metric as (P,) values of the pairs. logp, before: (K, vocabulary) log-probabilities now and before."""
    token_logp = logp.gather(-1, trace.tokens[:, None])[:, 0]
    choice = logp.argmax(-1)
    divergence = (before.exp() * (before - logp)).sum(-1).clamp(min=0)
    return {
        ACCURACY: (_missed(trace, choice != trace.tokens) == 0).float(),
        LOG_PROBABILITY: trace.to_pairs(token_logp),
        KL: trace.to_pairs(divergence),
        UNCHANGED: (_missed(trace, choice != before.argmax(-1)) == 0).float(),
    }


def _missed(trace: Trace, wrong: Tensor) -> Tensor:
    """(P,) the number of wrong tokens of each pair, from (K,) bool."""
    counts = torch.zeros(len(trace.concepts), dtype=torch.long, device=wrong.device)
    return counts.index_add(0, trace.pair_of, wrong.long())
