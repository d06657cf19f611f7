"""A pass that led to a picture: what is explained is the concept's region in it, not a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from atlas.live.draw.pictures import positions
from atlas.live.encode import Batch
from atlas.live.hooks import Capture, tracing
from atlas.live.model import LiveModel
from atlas.live.norms import FrozenNorm
from ingest.attribution.finite import FiniteCheck
from ingest.attribution.trace import LOG_PROBABILITY, Item, Trace
from ingest.draw.drawings import Drawings


class ImageTrace(Trace):
    """Neuron values of one batch of requests for pictures.

    Targets are the picture's J states of every concept found in it, and R, (J, d_model), what each of these decided of
    the concept's region (`Drawings.importance`). In place of a word's logit stands R . h, with h the final norm's
    output at the state: to first order, what changes in the region when h changes. So every method that asks for an
    output, for its gradient or for a direction explains the picture as it explains a word.
    """

    target = "image"

    def __init__(
        self,
        live: LiveModel,
        batch: Batch,
        capture: Capture,
        items: Sequence[Item],
        source: str,
        tap: str,
        importance: Mapping[tuple[int, str], Tensor],
    ):
        super().__init__(live, batch, capture, items, source, tap)
        self.positions = self.positions + 1 + live.drawer.offset
        seen: dict[tuple[int, str], int] = {}  # which of a picture's states a target is, as they come in order
        rows = []
        for r, item in enumerate(items):
            for target in item.targets:
                key = (r, target.concept)
                rows.append(importance[key][seen.get(key, 0)])
                seen[key] = seen.get(key, 0) + 1
        empty = torch.zeros(0, live.layout.d_model, device=live.device)
        self.importance = torch.stack(rows).float() if rows else empty

    def outputs(self, final: Tensor, which: Tensor | None = None, output: str = LOG_PROBABILITY) -> Tensor:
        """(K,) R . h of each target; whatever of OUTPUTS is asked for, as a picture has no probability."""
        wanted = self.importance if which is None else self.importance[which]
        return (final.float() * wanted.to(final.device)).sum(-1)

    def directions(self, norm: bool) -> Tensor:
        """(K, d_model): R, or R taken back through the final norm at its real scale, which the states lie behind."""
        if not norm:
            return self.importance
        return FrozenNorm(self.live.layout.norm, *self.final_at_targets()).pulled_back(self.importance)


@contextmanager
def drawn(
    live: LiveModel,
    items: Sequence[Item],
    source: str,
    drawings: Drawings,
    *,
    layers: Sequence[int] | None,
    tap: str,
    grad: bool,
    later: FiniteCheck | None = None,
) -> Iterator[tuple[ImageTrace | None, list[str]]]:
    """One teacher-forced pass over requests and the answers to them, the pictures drawn and looked back on.

    Yields the trace, None where no concept was found in any picture; and the concepts that were not, one a picture.
    """
    batch = live.batch([item.prompt for item in items])
    with torch.set_grad_enabled(grad), tracing(live.layout, layers=layers, tap=tap, grad=grad) as capture:
        live.forward(batch)
    assert capture.norm_out is not None, "the traced pass did not reach the final norm"
    at = positions(live, [item.prompt for item in items], batch.starts)
    rows = torch.arange(len(items), device=at.device)[:, None]
    tokens = batch.inputs["input_ids"][rows, at - live.drawer.offset]
    pictures = drawings.draw(items, states := capture.norm_out.detach()[rows, at], tokens)
    regions = drawings.regions(items, pictures)
    found = {(region.row, region.concept) for region in regions}
    missing = [c for r, item in enumerate(items) for c in {t.concept for t in item.targets} if (r, c) not in found]
    if not found:
        yield None, missing
        return
    importance = drawings.importance(states, pictures, regions)
    kept = [
        replace(item, targets=tuple(t for t in item.targets if (r, t.concept) in found)) for r, item in enumerate(items)
    ]
    with torch.set_grad_enabled(grad):
        trace = ImageTrace(live, batch, capture, kept, source, tap, importance)
        yield trace, missing
    trace.finite.done(later)
