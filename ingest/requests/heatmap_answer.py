"""From neurons and what is shown to the answer: passes, random neurons beside, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.live.grid.heat_answer import HeatAnswer, Panel, average, rows_of
from atlas.neurons import PRODUCT, Neuron
from atlas.stats.random_neurons import matched_random
from ingest.analyse.heat import Look, look_at
from ingest.requests.heatmap_model import StoredModel, decoded_tokens
from ingest.requests.progress import Progress

if TYPE_CHECKING:
    from atlas.live.model import LiveModel
    from atlas.query.provenance import Provenance
    from ingest.analyse.heat_examples import Gathered

LEAST = 20
"""Random neurons that a comparison rests on, at least."""

EMPTY = ("example", "run", "iou", "pointing")
"""Columns that are not printed where no row has a value."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Fields of the request: see `ingest.requests.heatmap.Heatmap`."""

    concept: str | None
    tap: str | None
    percentile: float
    seed: int
    batch_size: int
    side: int


def answer_of(
    path: Path,
    settings: Settings,
    live: LiveModel,
    model: StoredModel,
    neurons: list[Neuron],
    gathered: Gathered,
    provenance: Provenance,
    progress: Progress,
) -> HeatAnswer:
    """The panels and the rows of all neurons on everything that is shown."""
    concept = _concept_of(provenance) if "maps" in provenance else settings.concept
    controls = random_beside(neurons, model.width, settings.seed) if concept is not None else []
    tap = settings.tap or gathered.tap or tap_of(provenance)
    tokens = decoded_tokens(path, model, neurons)
    look = Look(neurons, controls, tap, concept, settings.percentile, settings.side, tokens)
    panels: list[Panel] = []
    others: list[Panel] = []
    notes = list(gathered.notes)
    for seen in look_at(live, gathered.shown, look, settings.batch_size, progress):
        panels += seen.panels
        others += seen.controls
        notes += seen.notes
    table, random = rows_of(panels), rows_of(others)
    answer = HeatAnswer(
        table,
        provenance,
        facts=_facts(live, model, tap, settings, panels, others),
        notes=list(dict.fromkeys(notes)),
        parts={"random": random} if len(random) else {},
        brief=table.drop_columns(
            ["component", *(name for name in EMPTY if table[name].null_count == len(table)), *_same(table)]
        ),
    )
    answer.panels, answer.controls = tuple(panels), tuple(others)
    answer.notes += _sentence(answer)
    return answer


def random_beside(neurons: Sequence[Neuron], width: int, seed: int) -> list[Neuron]:
    """Random neurons of the same layers: as many, and beside few neurons LEAST, so that their mean hangs on no one."""
    drawn: dict[Neuron, None] = {}
    for i in range(2 * LEAST):
        drawn |= dict.fromkeys(matched_random(neurons, width, seed + i))
        if len(drawn) >= LEAST:
            break
    return list(drawn)


def _same(table: Any) -> list[str]:
    """`source`, where all rows have the same: the picture's name says it."""
    return ["source"] if len(set(table["source"].to_pylist())) < 2 else []


def _concept_of(provenance: Provenance) -> str | None:
    """The concept that the neurons were found for, where it is one."""
    names = {origin["concept"] for origin in provenance.get("maps", [])}
    return names.pop() if len(names) == 1 else None


def tap_of(provenance: Provenance) -> str:
    """Where the neurons' maps read them."""
    taps = {origin["tap"] for origin in provenance.get("maps", [])}
    return taps.pop() if len(taps) == 1 else PRODUCT


def _facts(
    live: LiveModel, model: StoredModel, tap: str, settings: Settings, panels: Sequence[Panel], others: Sequence[Panel]
) -> dict[str, Any]:
    """The model, and means over neurons and pictures beside those of random neurons."""
    facts: dict[str, Any] = {"model": model.name, "fingerprint": live.fingerprint, "tap": tap}
    if any(panel.shown.region is not None for panel in panels):
        facts |= {
            "concept": next(panel.shown.concept for panel in panels if panel.shown.region is not None),
            "percentile": settings.percentile,
            "iou": average([panel.iou for panel in panels]),
            "random_iou": average([panel.iou for panel in others]),
            "pointing": average([panel.pointing for panel in panels]),
            "random_pointing": average([panel.pointing for panel in others]),
        }
    return facts


def _sentence(answer: HeatAnswer) -> tuple[str, ...]:
    """The comparison with random neurons, and the mean map's, in a sentence."""
    if answer.facts.get("iou") is None:
        return ()
    random = len({panel.neuron for panel in answer.controls})
    line = (
        f"IoU {answer.facts['iou']:.2f}, of {random} random neurons of the same layers {answer.facts['random_iou']:.2f}"
    )
    means = answer.means()
    if (mean := average([panel.iou for panel in means])) is None:
        return (line,)
    beside = average([panel.random for panel in means])
    answer.facts |= {"mean_map_iou": mean, "random_mean_map_iou": beside}
    return (line if beside is None else f"{line}; of the mean map {mean:.2f}, of random ones' {beside:.2f}",)
