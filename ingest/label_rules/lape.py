"""Domain-specific neurons: those whose firing rate is most unevenly spread over the domains.

Tang et al. 2024, LAPE; Huo et al. 2024, MMNeuron. With p[d] a neuron's rate in domain d, and q[d] = p[d] / sum over d
of p[d], its entropy is H = -sum over d of q[d] log q[d]. Neurons whose largest rate does not exceed the 95th percentile
of all rates are left out; of all neurons the 1 % with the lowest entropy are taken; each is labelled with every domain
in which its rate exceeds the 95th percentile. The score is log(domains) - H: 0 for equal rates everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from atlas.errors import UsageError, unknown
from ingest.analyse.labelling import RunMaps
from ingest.attribution.labels import LabelledNeurons, chosen
from ingest.attribution.role_sums import DISJOINT

DOMAINS = ("runs", "roles", "inputs")


class Lape:
    """See the module. domains, role, share, quantile: as in `build`."""

    method = "lape"

    def __init__(self, domains: str, role: str, share: float, quantile: float):
        if domains not in DOMAINS:
            raise unknown("kind of domain", domains, DOMAINS, "atlas labels make --help")
        if not 0 < share <= 1 or not 0 < quantile < 1:
            raise UsageError("the share is above 0 and at most 1, the quantile between 0 and 1")
        self.domains, self.role, self.share, self.quantile = domains, role, share, quantile

    def label(self, runs: Sequence[RunMaps]) -> Iterator[LabelledNeurons]:
        rates = self._rates(runs)
        if len(rates) < 2:
            raise UsageError(f"there is one domain ({', '.join(rates)}); name several [[runs]], or use domains=roles")
        stacked = np.stack(list(rates.values()))
        masks, gap = specific(stacked, self.share, self.quantile)
        over = f"{self.domains} ({self.role})" if self.domains == "runs" else self.domains
        among = ", ".join(rates)
        rule = f"lape {over}: lowest {self.share:g} entropy over {among}, rates above quantile {self.quantile:g}"
        for domain, mask in zip(rates, masks, strict=True):
            yield chosen(domain, rule, runs[0].layers, mask, gap)

    def _rates(self, runs: Sequence[RunMaps]) -> dict[str, np.ndarray]:
        """domain -> (L, N) firing rates."""
        if self.domains == "runs":
            names = [run.dataset for run in runs]
            several = len(set(names)) < len(names)
            labels = [f"{run.dataset}:{run.run_id[:8]}" if several else run.dataset for run in runs]
            return {label: run.scores("lape.role", self.role) for label, run in zip(labels, runs, strict=True)}
        if len(runs) > 1:
            raise UsageError(f"the {self.domains} of one run are compared; name one of [[runs]], or use domains=runs")
        part = "lape.role" if self.domains == "roles" else "lape.input"
        available = runs[0].sources(part)
        chosen_domains = [r for r in DISJOINT if r in available] if self.domains == "roles" else available
        return {domain: runs[0].scores(part, domain) for domain in chosen_domains}


def specific(rates: np.ndarray, share: float, quantile: float) -> tuple[np.ndarray, np.ndarray]:
    """(D, L, N) bool: which neurons are specific to which domain; (L, N): log D minus the entropy.

    rates: (D, L, N). Among neurons of equal entropy, those with the largest rate come first. The quantile is the k-th
    smallest rate with k = round(quantile * count), as published.
    """
    total = rates.sum(0)
    q = rates / np.where(total > 0, total, 1)
    entropy = -(q * np.log(np.where(q > 0, q, 1))).sum(0)
    flat = np.sort(rates, axis=None)
    threshold = flat[max(1, round(quantile * flat.size)) - 1]
    active = rates > threshold
    ranked = np.where(active.any(0), entropy, np.inf).reshape(-1)
    lowest = np.zeros(ranked.size, dtype=bool)
    # Neurons that fire for a single domain all have entropy 0: take those that fire most.
    lowest[np.lexsort((-rates.max(0).reshape(-1), ranked))[: round(share * ranked.size)]] = True
    return active & lowest.reshape(entropy.shape), np.log(len(rates)) - entropy


def build(*, domains: str = "runs", role: str = "prompt", share: float = 0.01, quantile: float = 0.95) -> Lape:
    """domains: runs | roles (text, image, ... of one run) | inputs (the sources of one run). role: whose positions are
    compared across runs. share: of all neurons, those with the lowest entropy. quantile: the rate to exceed."""
    return Lape(domains, role, share, quantile)
