"""A traced pass over a bare forward pass of the same batch, and with every forward-only method reading the trace."""

from __future__ import annotations

import torch
from _models import middling_llava, prompts
from _timing import interleaved, report

from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.data.targets import Target
from ingest.methods import activation, contribution, random

BATCH = 16


def main() -> None:
    live = middling_llava()
    made = prompts(BATCH)
    batch = live.batch(made)
    items = [Item(n, p, (Target(f"concept {n % 4}", 0, 1.0),)) for n, p in enumerate(made)]
    methods = [contribution.build(), contribution.build(norm=True), activation.build(), random.build()]

    def bare() -> None:
        with torch.no_grad():
            live.forward(batch)

    def trace() -> None:
        with traced(live, items, "image", layers=None, tap="product", grad=False):
            pass

    def attribute() -> None:
        with traced(live, items, "image", layers=None, tap="product", grad=False) as found:
            for method in methods:
                method.update(found)

    seconds = interleaved({"bare": bare, "traced": trace, "methods": attribute}, 15)
    positions = batch.roles.numel()
    detail = f"{positions / seconds['bare']:,.0f} tokens/s bare, batch {BATCH} of {positions // BATCH}"
    report("traced pass / bare forward", seconds["traced"] / seconds["bare"], "<= 1.15", detail)
    detail = "trace and contribution twice, activation, random"
    report("traced pass with four methods / bare forward", seconds["methods"] / seconds["bare"], "<= 1.15", detail)


if __name__ == "__main__":
    main()
