"""Label neurons by a rule, from stored maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atlas.query.answer import Answer
from atlas.query.option import COMMAS, PAIRS, described, option
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request


@described
class MakeLabels(Request[Answer]):
    """Label neurons from the maps that runs with the methods miner or lape stored; no model is loaded.

    One row a labelled neuron; `facts` has `run_id`, `fresh` (False where the same labels had been made before) and
    `runs`, those that the labels were made from.

    Raises:
        UsageError: an unknown rule, run or parameter; maps that do not go together.
    """

    rule: str = option("miner or lape: whose stored maps are read, and how.", default="miner", kw_only=False)
    runs: Sequence[str] | None = option(
        "Runs to pool, by the beginnings of their ids. [default: the newest with maps]", default=None, several=COMMAS
    )
    strategy: str | None = option("LA_MU (default), adaptive, LU_MA, uniform or random.", default=None)
    ratio: float | None = option("The share of all neurons to choose. [default: 0.02]", default=None)
    weights: str | None = option("prob,mean,max,attn_k,attn_q: five numbers, or a preset.", default=None)
    split: str | None = option("special_text_separate (default), special_text_as_one or prompt.", default=None)
    param: Mapping[str, Any] | None = option("KEY=VALUE for the rule; repeatable.", default=None, several=PAIRS)

    def perform(self, path: Path, progress: Progress = silent) -> Answer:
        from atlas.query.labels import labelled
        from ingest.analyse.labelling import make

        named = {"strategy": self.strategy, "ratio": self.ratio, "weights": self.weights, "split": self.split}
        given = dict(self.param or {}) | {name: value for name, value in named.items() if value is not None}
        made = make(path, self.rule, tuple(self.runs or ()), given)
        neurons = labelled(path, made.run_id, None)
        facts = {"run_id": made.run_id, "fresh": made.fresh, "runs": made.runs}
        return Answer(neurons.table, neurons.provenance, facts=facts)
