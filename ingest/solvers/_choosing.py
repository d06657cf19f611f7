"""Which neurons a solver may change by default: those that contribute most to what the model says now."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, PRODUCT, Neuron
from ingest.attribution.item import Item, shortest_first
from ingest.attribution.trace import Trace, traced
from ingest.run.encode_examples import batches
from ingest.solve.problem import Problem


def excluded(layers: int, exclude_last: int) -> int:
    """How many of the last layers are left out; -1 stands for 3 of 32, as in FiNE's released code.

    Raises:
        UsageError: none would be left.
    """
    if exclude_last < -1:
        raise UsageError(f"exclude_last={exclude_last} is not a number of layers; -1 stands for 3 of 32")
    count = 3 * layers // 32 if exclude_last < 0 else exclude_last
    if count >= layers:
        raise UsageError(f"exclude_last={count} leaves none of the {layers} layers")
    return count


@torch.no_grad()
def contributing(problem: Problem, per_token: int, exclude_last: int) -> list[Neuron]:
    """For each token of the words, the neurons that contribute most to the model's own choice where it is predicted.

    The contribution (Pan et al. 2024) is averaged over the cases. Neurons are distinct and in the tokens' order.
    """
    if per_token < 1:
        raise UsageError(f"per_token={per_token} chooses no neuron; give 1 or more")
    items = shortest_first([case.item() for case in problem.cases])
    summed, counts = _contributions(problem, items)
    searched = summed.shape[1] - excluded(summed.shape[1], exclude_last)
    width = summed.shape[2]
    neurons: dict[Neuron, None] = {}
    for token in range(len(counts)):
        best = (summed[token, :searched] / counts[token]).flatten().topk(min(per_token, searched * width))
        for index, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            if score > 0:
                neurons[Neuron(LANGUAGE, index // width, index % width)] = None
    if not neurons:
        raise UsageError(
            "no neuron contributes to what the model says; give neurons that may change, or a smaller exclude_last"
        )
    return list(neurons)


def firsts(trace: Trace) -> list[int]:
    """The index of each row's first target in a trace."""
    rows = trace.rows.tolist()
    return [i for i, row in enumerate(rows) if i == 0 or rows[i - 1] != row]


def orders(item: Item) -> list[int]:
    """The position of each target within its word; a new occurrence starts where indices are not consecutive."""
    positions: list[int] = []
    for i, target in enumerate(item.targets):
        follows = i > 0 and item.targets[i - 1].index == target.index - 1
        positions.append(positions[-1] + 1 if follows else 0)
    return positions


def _contributions(problem: Problem, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
    """(tokens of the longest word, layers, neurons) summed contributions, and (tokens,) how many cases they sum."""
    layout = problem.live.layout
    longest = max(max(orders(item)) for item in items) + 1
    summed = torch.zeros(longest, len(layout.layers), layout.width)
    counts = torch.zeros(longest)
    for chunk in batches(items, problem.batch_size):
        order = torch.tensor([place for item in chunk for place in orders(item)])
        counts.index_add_(0, order, torch.ones(len(order)))
        with traced(problem.live, chunk, "", layers=None, tap=PRODUCT, grad=False) as trace:
            _, after = trace.final_at_targets()
            chosen_rows = layout.unembedding()[problem.live.logits(after).argmax(-1)].float()
            for layer in trace.layers:
                score = trace.at_targets(layer) * (chosen_rows @ layout.write_vectors(layer).float())
                summed[:, layer].index_add_(0, order, score.cpu())
    return summed, counts
