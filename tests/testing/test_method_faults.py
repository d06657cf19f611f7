"""The contract test of methods notices each fault, and names it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from contract_parts import made_by
from torch import Tensor

import ingest.methods.contribution
from atlas.testing import ContractError, check_method, contract
from ingest.attribution.estimators import NeuronMap, PairMethod
from ingest.attribution.trace import Trace
from ingest.methods.contribution import Contribution


class Fair(Contribution):
    """Keeps the contract; the others each break it in one way."""

    def __init__(self) -> None:
        super().__init__(norm=False)


class Negated(Fair):
    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        return {"": -super().scores(trace)[""]}


class Random(Fair):
    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        return {"": super().scores(trace)[""] + torch.rand(1)}


class OfItsBatch(Fair):
    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        return {"": super().scores(trace)[""] / len(trace.items)}


class Forgetful(Fair):
    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.pairs = type(self.pairs)()
        super().merge(state)


class Missing(Fair):
    def scores(self, trace: Trace) -> Mapping[str, Tensor]:
        scores = super().scores(trace)[""].clone()
        scores[0, :, 3] = torch.nan
        return {"": scores}


class Double(Fair):
    def result(self) -> Iterator[NeuronMap]:
        for m in super().result():
            yield NeuronMap(m.concept, m.source, m.target, m.reduce, m.scores.double(), m.layers, m.examples)


class Flat(Fair):
    def result(self) -> Iterator[NeuronMap]:
        for m in super().result():
            yield NeuronMap(m.concept, m.source, m.target, m.reduce, m.scores[:, :60], m.layers, m.examples)


class Miscounting(Fair):
    def result(self) -> Iterator[NeuronMap]:
        for m in super().result():
            yield NeuronMap(m.concept, m.source, m.target, m.reduce, m.scores, m.layers, m.examples + 1)


class Hooking(Fair):
    def update(self, trace: Trace) -> None:
        trace.live.layout.layers[0].register_forward_hook(lambda *_: None)
        super().update(trace)


class HookingOnFailure(Fair):
    def update(self, trace: Trace) -> None:
        handle = trace.live.layout.layers[0].register_forward_hook(lambda *_: None)
        trace.live.forward(trace.batch)
        handle.remove()
        super().update(trace)


class Changing(Fair):
    def update(self, trace: Trace) -> None:
        super().update(trace)
        with torch.no_grad():
            trace.live.layout.layers[1].mlp.down_proj.weight[3, 3] += 1e-3  # type: ignore[index, operator, union-attr]


class Silent(Fair):
    def result(self) -> Iterator[NeuronMap]:
        yield from ()


class Needy(Fair):
    needs = frozenset({"coffee"})


METHODS: list[tuple[type[PairMethod], str]] = [
    (Negated, "the planted neuron"),
    (Random, "other scores the second time"),
    (OfItsBatch, "two batches give other scores"),
    (Forgetful, "two merged halves give other"),
    (Missing, "NaN or infinite"),
    (Double, "is torch.float64, not float32"),
    (Flat, "has shape"),
    (Miscounting, "is of 4 examples; 3 mention it"),
    (Hooking, "a hook is left"),
    (HookingOnFailure, "a hook is left"),
    (Changing, "a weight of the model has changed"),
    (Silent, "no map"),
    (Needy, "needs has"),
]


def test_a_method_that_keeps_the_contract() -> None:
    check_method(made_by(Fair), name="fair")
    check_method(ingest.methods.contribution)


@pytest.mark.parametrize(("kind", "fault"), METHODS, ids=[kind.__name__ for kind, _ in METHODS])
def test_a_method_that_breaks_it(kind: type[PairMethod], fault: str) -> None:
    with pytest.raises(ContractError, match=f"(?s)^broken: .*{fault}"):
        check_method(made_by(kind), name="broken")
    contract.tiny.cache_clear()  # some change the models


def test_a_build_that_the_command_line_cannot_call() -> None:
    def positional(norm: bool = False) -> Any:
        """norm: by position."""
        return Fair()

    def required(*, norm: bool) -> Any:
        """norm: without a default."""
        return Fair()

    def silent() -> Any:
        return Fair()

    for build, fault in ((positional, "by position"), (required, "no default"), (silent, "no docstring")):
        with pytest.raises(ContractError, match=f"broken: .*{fault}"):
            check_method(build, name="broken")
    with pytest.raises(ContractError, match="json: its module json has no function build"):
        check_method(json)
