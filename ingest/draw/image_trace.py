"""A pass that led to a picture: the concept's region in it is explained, not a word."""

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
from ingest.attribution.item import Item
from ingest.attribution.trace import LOG_PROBABILITY, Trace
from ingest.draw.drawings import Drawings


class ImageTrace(Trace):
    """Neuron values of one batch of requests for pictures.

    Targets are the picture's J states, for every concept found in it, with R, (J, d_model), each state's importance for
    the concept's region (`Drawings.importance`). R . h replaces a word's logit, with h the final norm's output at the
    state: to first order, how the region changes with h. So every method that uses an output, its gradient or a
    direction explains pictures in the same way as words.
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
        counts: dict[tuple[int, str], int] = {}  # which of a picture's states a target is, as they come in order
        rows = []
        for r, item in enumerate(items):
            for target in item.targets:
                key = (r, target.concept)
                rows.append(importance[key][counts.get(key, 0)])
                counts[key] = counts.get(key, 0) + 1
        empty = torch.zeros(0, live.layout.d_model, device=live.device)
        self.importance = torch.stack(rows).float() if rows else empty

    def outputs(self, final: Tensor, which: Tensor | None = None, output: str = LOG_PROBABILITY) -> Tensor:
        """(K,) R . h of each target, for every one of OUTPUTS, as a picture has no probability."""
        directions_used = self.importance if which is None else self.importance[which]
        return (final.float() * directions_used.to(final.device)).sum(-1)

    def directions(self, norm: bool) -> Tensor:
        """(K, d_model): R, or R pulled back through the final norm at its real scale, as the states come after it."""
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
    """One teacher-forced pass over requests with their answers; draws the pictures and attributes their regions.

    Yields the trace (None where no concept was found in any picture) and the concepts not found, one for each picture.
    """
    batch = live.batch([item.prompt for item in items])
    with torch.set_grad_enabled(grad), tracing(live.layout, layers=layers, tap=tap, grad=grad) as capture:
        live.forward(batch)
    assert capture.norm_out is not None, "the traced pass did not reach the final norm"
    state_positions = positions(live, [item.prompt for item in items], batch.starts)
    rows = torch.arange(len(items), device=state_positions.device)[:, None]
    tokens = batch.inputs["input_ids"][rows, state_positions - live.drawer.offset]
    pictures = drawings.draw(items, states := capture.norm_out.detach()[rows, state_positions], tokens)
    regions = drawings.regions(items, pictures)
    shown = {(region.row, region.concept) for region in regions}
    missing = [c for r, item in enumerate(items) for c in {t.concept for t in item.targets} if (r, c) not in shown]
    if not shown:
        yield None, missing
        return
    importance = drawings.importance(states, pictures, regions)
    explained = [
        replace(item, targets=tuple(t for t in item.targets if (r, t.concept) in shown)) for r, item in enumerate(items)
    ]
    with torch.set_grad_enabled(grad):
        trace = ImageTrace(live, batch, capture, explained, source, tap, importance)
        yield trace, missing
    trace.finite.done(later)
