"""Which neurons a solver may change, where it was not told: those that contribute most to what the model says now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, PRODUCT, Neuron
from ingest.attribution.trace import Item, Trace, shortest_first, traced
from ingest.run.encode_examples import batches
from ingest.solve.problem import Problem


def excluded(layers: int, exclude_last: int) -> int:
    """How many of the last layers are left out; -1 stands for 3 of 32, as in FiNE's released code.

    Raises:
        UsageError: none would be left.
    """
    if exclude_last < -1:
        raise UsageError(f"exclude_last={exclude_last} is not a number of layers; -1 stands for 3 of 32")
    found = 3 * layers // 32 if exclude_last < 0 else exclude_last
    if found >= layers:
        raise UsageError(f"exclude_last={found} leaves none of the {layers} layers")
    return found


@torch.no_grad()
def contributing(problem: Problem, per_token: int, exclude_last: int) -> list[Neuron]:
    """For each token of the words, the neurons that contribute most to the model's own choice where it is predicted.

    The contribution (Pan et al. 2024) is the mean over the cases. Each neuron is there once, in the tokens' order.
    """
    if per_token < 1:
        raise UsageError(f"per_token={per_token} chooses no neuron; give 1 or more")
    items = shortest_first([case.item() for case in problem.cases])
    summed, counts = _contributions(problem, items)
    kept = summed.shape[1] - excluded(summed.shape[1], exclude_last)
    width = summed.shape[2]
    found: dict[Neuron, None] = {}
    for token in range(len(counts)):
        best = (summed[token, :kept] / counts[token]).flatten().topk(min(per_token, kept * width))
        for place, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            if score > 0:
                found[Neuron(LANGUAGE, place // width, place % width)] = None
    if not found:
        raise UsageError(
            "no neuron contributes to what is said here; give neurons with --method or a smaller exclude_last"
        )
    return list(found)


def firsts(trace: Trace) -> list[int]:
    """Which of a trace's targets is the first of its row."""
    rows = trace.rows.tolist()
    return [i for i, row in enumerate(rows) if i == 0 or rows[i - 1] != row]


def orders(item: Item) -> list[int]:
    """The place of each target within its word: the occurrences of a word are not next to each other."""
    found: list[int] = []
    for i, target in enumerate(item.targets):
        follows = i > 0 and item.targets[i - 1].index == target.index - 1
        found.append(found[-1] + 1 if follows else 0)
    return found


def _contributions(problem: Problem, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
    """(tokens of the longest word, layers, neurons) sums of contributions, and (tokens,) how many cases are in them."""
    layout = problem.live.layout
    longest = max(max(orders(item)) for item in items) + 1
    summed = torch.zeros(longest, len(layout.layers), layout.width)
    counts = torch.zeros(longest)
    for some in batches(items, problem.batch_size):
        order = torch.tensor([place for item in some for place in orders(item)])
        counts.index_add_(0, order, torch.ones(len(order)))
        with traced(problem.live, some, "", layers=None, tap=PRODUCT, grad=False) as trace:
            _, after = trace.final_at_targets()
            said = layout.unembedding()[problem.live.logits(after).argmax(-1)].float()
            for layer in trace.layers:
                score = trace.at_targets(layer) * (said @ layout.write_vectors(layer).float())
                summed[:, layer].index_add_(0, order, score.cpu())
    return summed, counts
