"""From neurons and what is shown to the answer: passes, random neurons beside, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.live.grid.heat_answer import HeatAnswer, Panel, average, rows_of
from atlas.neurons import PRODUCT, Neuron
from atlas.stats.loudness import stored_loudness
from atlas.stats.random_neurons import matched_random
from atlas.store.database import open_readonly
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
    tap = settings.tap or gathered.tap or tap_of(provenance)
    controls, matched = random_beside(path, model, tap, neurons, settings.seed) if concept is not None else ([], "")
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
        facts=_facts(live, model, tap, settings, panels, others) | ({"matched": matched} if matched else {}),
        notes=list(dict.fromkeys(notes)),
        parts={"random": random} if len(random) else {},
        brief=table.drop_columns(
            ["component", *(name for name in EMPTY if table[name].null_count == len(table)), *_same(table)]
        ),
    )
    answer.panels, answer.controls = tuple(panels), tuple(others)
    answer.notes += _sentence(answer)
    return answer


def random_beside(
    path: Path, model: StoredModel, tap: str, neurons: Sequence[Neuron], seed: int
) -> tuple[list[Neuron], str]:
    """Random neurons, and what they have in common with the given ones: layers, and about the same mean |activation|
    where the atlas has that. As many, and beside few neurons LEAST, so that their mean hangs on no one."""
    with open_readonly(path) as connection:
        loudness = stored_loudness(connection, model.fingerprint, tap)
    known = loudness if len(loudness) == model.layers else None
    drawn: dict[Neuron, None] = {}
    for i in range(2 * LEAST):
        drawn |= dict.fromkeys(matched_random(neurons, model.width, seed + i, known))
        if len(drawn) >= LEAST:
            break
    return list(drawn), "layers" if known is None else "layers and mean |activation|"


def beside_random(value: float, matched: str, each: Sequence[float | None]) -> str:
    """What random neurons have, in words; and how many of them 0, as a map that is the same everywhere has.

    value: their mean. matched: what they have in common with the neurons. each: every one's.
    """
    known = [number for number in each if number is not None]
    none = sum(number == 0 for number in known)
    zeros = f" ({none} of {len(known)} have 0)" if none else ""
    return f"{value:.2f} of random neurons of the same {matched}{zeros}"


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
    facts = answer.facts
    each = [panel.iou for panel in answer.controls]
    line = f"IoU {facts['iou']:.2f}, {beside_random(facts['random_iou'], facts['matched'], each)}"
    means = answer.means()
    if (mean := average([panel.iou for panel in means])) is None:
        return (line,)
    beside = average([panel.random for panel in means])
    answer.facts |= {"mean_map_iou": mean, "random_mean_map_iou": beside}
    return (line if beside is None else f"{line}; of the mean map {mean:.2f}, of random ones' {beside:.2f}",)
