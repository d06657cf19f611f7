"""Does a word swap hold, where else does it hold, and what else does it change? Held-out examples, before and after.

Where the reference answer (or the model's own) has the word: does the model say the other word in its place (`success`,
teacher forcing; `whole_success`: the generated answer is the one from before with the word replaced), is the word still
in the answer (`said`), and how probable are both words? Elsewhere: is the generated answer the same as before
(`whole_unchanged`)?
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from atlas.live.encode import Prompt
from atlas.live.model import LiveModel
from atlas.neurons import PRODUCT
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import traced
from ingest.data.examples import Example
from ingest.data.targets import spans
from ingest.evaluate.generated import generate_answers
from ingest.evaluate.teacher_forced import QuestionKey, Scores
from ingest.run.encode_examples import ExampleEncoder, batches
from ingest.solve.swaps import Swap, SwapCase, make_cases, replace_word, spoken_cases

OTHERS = ""


class SwapEvaluator:
    """Held-out examples, put to a model under any number of conditions; all are compared with the first call.

    cases: those whose answer has the word and in which the model says it. concept: the concept of their effects.
    """

    def __init__(self, encoder: ExampleEncoder, examples: Sequence[Example], swap: Swap, batch_size: int, concept: str):
        self.live: LiveModel = encoder.live
        self.encoder, self.swap, self.batch_size, self.concept = encoder, swap, batch_size, concept
        numbered = list(enumerate(examples))
        self.cases: list[SwapCase] = spoken_cases(
            self.live, make_cases(encoder, numbered, swap, batch_size), batch_size
        )
        case_numbers = {case.number for case in self.cases}
        others = [(n, e) for n, e in numbered if n not in case_numbers and not self._about(e)]
        self.prompts: list[tuple[Example, Prompt]] = []
        for number, example in [*((c.number, examples[c.number]) for c in self.cases), *others]:
            prompt = encoder.prompt(example)
            if prompt is not None and (number in case_numbers or not self._has_word(example, prompt)):
                self.prompts.append((example, Prompt(prompt.ids, (), prompt.extras)))
        self._before: list[str] = []

    def _about(self, example: Example) -> bool:
        return any(m.concept == self.concept for m in example.mentions)

    def _has_word(self, example: Example, prompt: Prompt) -> bool:
        return bool(spans(self.live.encoder.decode(prompt.answer), [self.swap.said]))

    @torch.no_grad()
    def evaluate(self) -> Scores:
        """Every metric of every example; the caller's `with` block decides how the model is edited."""
        answers = generate_answers(self.encoder, self.prompts, self.batch_size, first=not self._before)
        self._before = self._before or answers
        count, cases = len(self.prompts), len(self.cases)
        values = {name: np.full(count, np.nan) for name in ("whole_success", "whole_unchanged", "said")}
        for i, (case, answer) in enumerate(zip(self.cases, answers, strict=False)):
            has_word = bool(spans(answer, [self.swap.said]))
            values["said"][i] = has_word
            values["whole_success"][i] = (
                not has_word if self.swap.wanted is None else answer == self._expected_answer(i, case)
            )
        for i in range(cases, count):
            values["whole_unchanged"][i] = answers[i] == self._before[i]
        word_scores = self._forced([case.item(original=True) for case in self.cases])
        values["said_probability"] = _padded(word_scores["probability"], count)
        if self.swap.wanted is not None:
            replacement_scores = self._forced([case.item() for case in self.cases])
            values["success"] = _padded(replacement_scores["first"], count)
            values["wanted_probability"] = _padded(replacement_scores["probability"], count)
        questions = [
            QuestionKey(e.source, e.task, self.concept if i < cases else OTHERS, frozenset(), e.cluster)
            for i, (e, _) in enumerate(self.prompts)
        ]
        return Scores(tuple(questions), values)

    def _expected_answer(self, number: int, case: SwapCase) -> str:
        """The model's own answer from before with the word replaced; where it did not say the word, the reference's."""
        assert self.swap.wanted is not None, "only for swaps with a replacement"
        text, places = replace_word(self._before[number], self.swap.said, self.swap.wanted)
        return text if places else self.live.encoder.decode(case.wanted.answer).strip()

    def _forced(self, items: Sequence[Item]) -> dict[str, np.ndarray]:
        """For each item, whether every token of its word is the first choice, and the word's probability."""
        index_of = {item.number: i for i, item in enumerate(items)}
        first, probability = np.zeros(len(items)), np.zeros(len(items))
        for chunk in batches(shortest_first(items), self.batch_size):
            with traced(self.live, chunk, "", layers=[], tap=PRODUCT, grad=False) as trace:
                missed, logp = trace.verdicts()
            for row, miss, mean in zip(trace.pairs.tolist(), missed.tolist(), logp.tolist(), strict=True):
                position = index_of[chunk[row].number]
                first[position], probability[position] = miss == 0, np.exp(mean * len(chunk[row].targets))
        return {"first": first, "probability": probability}


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([values, np.full(count - len(values), np.nan)])
