"""How often every neuron is above zero, by token role and by kind of input: what domain entropy is made of.

Tang et al. 2024, Language Activation Probability Entropy (LAPE), and MMNeuron (Huo et al. 2024), which has visual
domains in place of languages. The rate is

    p[d, l, n] = share of the domain's token positions with A[l, t, n] > 0

Domains are whole runs (datasets), the token roles of one run (`lape.role`, whose source is the role) or its sources
(`lape.input`, over all prompt positions of the examples with that source). Entropy, thresholds and the assignment to
domains need all domains at once: `atlas labels make --rule lape`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from ingest.attribution.estimators import TEXT_TARGET, NeuronMap, RunningMeans
from ingest.attribution.reductions import MEAN
from ingest.attribution.role_sums import PROMPT, sums_of
from ingest.attribution.trace import Trace

ROLE, INPUT = "role", "input"


class Lape:
    """See the module."""

    needs: frozenset[str] = frozenset()
    sources: frozenset[str] | None = None
    targets: frozenset[str] = frozenset({TEXT_TARGET})

    def __init__(self) -> None:
        self.positive = RunningMeans()

    def update(self, trace: Trace) -> None:
        self.positive.layers = trace.layers
        by_role = sums_of(trace)
        for role, role_sums in by_role.items():
            self.positive.add(f"{ROLE}|{role}", role_sums.positive.sum(1), int(role_sums.count.sum()))
        prompt = by_role[PROMPT]
        self.positive.add(f"{INPUT}|{trace.source}", prompt.positive.sum(1), int(prompt.count.sum()))

    def state(self) -> Mapping[str, Tensor]:
        return self.positive.state()

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.positive.merge(state)

    def result(self) -> Iterator[NeuronMap]:
        for key, (rate, positions) in self.positive.means().items():
            part, _, domain = key.partition("|")
            yield NeuronMap(None, domain, TEXT_TARGET, MEAN, rate.float(), self.positive.layers, positions, part)


def build() -> Lape:
    """No parameters."""
    return Lape()
