"""Neurons' values on the tokens of pictures, videos, recordings and words, read from forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atlas.errors import UsageError
from atlas.live.encode import PAD, Prompt
from atlas.live.finite import broken_rows, not_finite
from atlas.live.grid.heat_answer import Panel, Shown
from atlas.live.grid.heatmap import PERCENTILE, Floats, Mask, picture_maps, resampled, strip
from atlas.live.grid.token_grids import Grid, grids
from atlas.live.hooks import tracing
from atlas.live.media import Sound
from atlas.live.model import LiveModel
from atlas.live.pixels import rgb
from atlas.neurons import PRODUCT, Neuron
from atlas.token_roles import ROLES
from ingest.analyse.heat_examples import ToShow
from ingest.data.examples import AUDIO, IMAGE, TEXT, VIDEO
from ingest.data.targets import tokens_of
from ingest.run.encode_examples import batches

NEAR = 0.02
"""How far, in shares of it, a neuron's largest value may be from what was stored; bfloat16 rounds by less."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is looked at. neurons: whose values; controls: random ones, that are compared by IoU only. tap: see
    `atlas.live.hooks.tracing`. concept: whose region is outlined, where the dataset knows it. side: the longest of a
    map, in pixels; larger pictures are shown and compared smaller. decoded: tokens that each neuron raises."""

    neurons: Sequence[Neuron]
    controls: Sequence[Neuron] = ()
    tap: str = PRODUCT
    concept: str | None = None
    percentile: float = PERCENTILE
    side: int = 640
    decoded: Mapping[Neuron, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """The panels of one example's neurons and of the controls, and what there is to say."""

    panels: list[Panel]
    controls: list[Panel]
    notes: tuple[str, ...] = ()


def look_at(
    live: LiveModel, shown: Sequence[ToShow], look: Look, batch_size: int, progress: Callable[[int, int], None]
) -> Iterator[Seen]:
    """The panels of every example, in its order.

    Raises:
        NotFinite: a value is NaN or infinite.
        Unsupported, UsageError: an example does not fit the model.
    """
    done = 0
    for chunk in _of_one_source(shown, batch_size):
        prompts = [_prompt(live, one) for one in chunk]
        for one, prompt, values in zip(chunk, prompts, _values(live, prompts, chunk, look), strict=True):
            yield _panels(live, one, prompt, values, look)
            done += 1
            progress(done, len(shown))


def _of_one_source(shown: Sequence[ToShow], size: int) -> Iterator[Sequence[ToShow]]:
    """Batches of neighbours of one source: processors do not mix them."""
    begin = 0
    for end in range(1, len(shown) + 1):
        if end == len(shown) or shown[end].source != shown[begin].source:
            yield from batches(shown[begin:end], size)
            begin = end


def _prompt(live: LiveModel, one: ToShow) -> Prompt:
    prompt = live.encoder.prompt(one.prompt, one.media, one.answer)
    return prompt.answered(one.answer_ids) if one.answer_ids else prompt


def _values(live: LiveModel, prompts: Sequence[Prompt], shown: Sequence[ToShow], look: Look) -> list[Floats]:
    """For each prompt, (neurons and controls, positions) float32, from one pass."""
    neurons = [*look.neurons, *look.controls]
    layers = sorted({neuron.layer for neuron in neurons})
    batch = live.batch(prompts)
    with torch.no_grad(), tracing(live.layout, layers=layers, tap=look.tap) as capture:
        live.forward(batch)
    for layer, of_layer in capture.values.items():
        broken = broken_rows(of_layer, (batch.roles != PAD).to(of_layer.device)).tolist()
        if any(broken):
            names = [one.names[0] for one, bad in zip(shown, broken, strict=True) if bad]
            raise not_finite(f"the neurons of layer {layer}", names, live.dtype)
    chosen = [capture.values[neuron.layer][:, :, neuron.index].float().cpu() for neuron in neurons]
    stacked = torch.stack(chosen, 1).numpy()  # (batch, neurons, positions)
    return [row[:, : len(p.ids) + len(p.answer)] for row, p in zip(stacked, prompts, strict=True)]


def _panels(live: LiveModel, one: ToShow, prompt: Prompt, values: Floats, look: Look) -> Seen:
    notes: list[str] = []
    panels: list[Panel] = []
    controls: list[Panel] = []
    peaks = values[: len(look.neurons)].max(-1)
    for shown, laid in _parts(live, one, prompt, values, look, notes):
        compared = [
            Panel(neuron, shown, row, heat, percentile=look.percentile)
            for neuron, row, heat in _rows(look.controls, laid, len(look.neurons))
            if shown.region is not None
        ]
        ious = [panel.iou for panel in compared]
        random = float(np.mean([i for i in ious if i is not None])) if any(i is not None for i in ious) else None
        controls += compared
        for neuron, row, heat in _rows(look.neurons, laid, 0):
            decoded = (look.decoded or {}).get(neuron, ())
            panels.append(Panel(neuron, shown, row, heat, decoded, look.percentile, random))
    if one.stored is not None and abs(float(peaks[0]) - one.stored[0]) > NEAR * max(abs(one.stored[0]), 1e-3):
        notes.append(
            f"{one.names[0]}: the largest value is {peaks[0]:.3g} and was {one.stored[0]:.3g} when it was stored; "
            "the file, the answer or the precision is another"
        )
    return Seen(panels, controls, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Laid:
    """Values of all neurons on one part: (neurons, tokens), and as maps, (neurons, height, width), where it has any."""

    values: Floats
    maps: Floats | None


def _rows(neurons: Sequence[Neuron], laid: _Laid, first: int) -> Iterator[tuple[Neuron, Floats, Floats | None]]:
    for i, neuron in enumerate(neurons, first):
        yield neuron, laid.values[i], None if laid.maps is None else laid.maps[i]


def _parts(
    live: LiveModel, one: ToShow, prompt: Prompt, values: Floats, look: Look, notes: list[str]
) -> Iterator[tuple[Shown, _Laid]]:
    """Every picture, frame, recording or text of a prompt, with the values of its tokens."""
    ids = [*prompt.ids, *prompt.answer]
    common: dict[str, Any] = {"source": one.source, "example": one.example, "stored": one.stored, "run": one.run}
    if one.source in (TEXT, AUDIO):
        places = _words(live, one, prompt) if one.source == TEXT else _placeholders(live, ids, AUDIO)
        words = tuple(live.encoder.token(ids[p]) for p in places) if one.source == TEXT else ()
        if not places:
            raise UsageError(f"{one.names[0]} has no token of {one.source} for {live.name}; give a longer one")
        sound = next((medium for medium in one.media if isinstance(medium, Sound)), None)
        yield Shown(one.names[0], words=words, sound=sound, **common), _Laid(strip(places, values), None)
        return
    found = grids(live.encoder, prompt, live.model.config)
    if not found:
        notes.append(
            f"the {one.source} tokens of {live.name} have no place in the picture, or none that is known here: their "
            "values are shown as a strip, and there is no IoU"
        )
        places = _placeholders(live, ids, one.source)
        pixels = pixels_of(_frames(one)[0], look.side) if one.media else None
        yield Shown(one.names[0], pixels=pixels, **common), _Laid(strip(places, values), None)
        return
    for number, frame, of_part in _by_picture(found):
        yield _part(one, number, frame, of_part, values, look, notes, common)


def _part(
    one: ToShow,
    number: int,
    frame: int,
    of_part: list[Grid],
    values: Floats,
    look: Look,
    notes: list[str],
    common: Mapping[str, Any],
) -> tuple[Shown, _Laid]:
    """One picture, or one step of a video."""
    steps = _frames(one)
    picture = steps[number] if one.source == IMAGE else steps[min(frame * _per_step(one, steps), len(steps) - 1)]
    pixels = pixels_of(picture, look.side)
    name = one.names[number if one.source == IMAGE else 0]
    region = region_of(one, name, look.concept, pixels.shape[:2], notes) if one.source == IMAGE else None
    shown = Shown(name, number=frame or number, pixels=pixels, region=region, concept=look.concept, **common)
    places = [p for grid in of_part for row in grid.positions for p in row]
    maps = picture_maps(of_part, values, (pixels.shape[0], pixels.shape[1]))
    return shown, _Laid(strip(places, values), maps)


def _by_picture(found: Sequence[Grid]) -> Iterator[tuple[int, int, list[Grid]]]:
    keys = dict.fromkeys((grid.picture, grid.frame) for grid in found)
    for key in keys:
        yield *key, [grid for grid in found if (grid.picture, grid.frame) == key]


def _frames(one: ToShow) -> list[Any]:
    """The pictures of an example; of a video its frames."""
    return [picture for medium in one.media for picture in getattr(medium, "frames", (medium,))]


def _per_step(one: ToShow, frames: Sequence[Any]) -> int:
    """Frames of a video for each step of time: processors join two (Qwen-VL)."""
    return 2 if one.source == VIDEO and len(frames) > 1 else 1


def pixels_of(picture: Any, side: int) -> NDArray[np.uint8]:
    """(height, width, 3), at most `side` long."""
    picture = rgb(picture)
    scale = side / max(picture.size)
    if scale < 1:
        picture = picture.resize([max(1, round(edge * scale)) for edge in picture.size])
    return np.asarray(picture, np.uint8)


def region_of(one: ToShow, name: str, concept: str | None, size: tuple[int, ...], notes: list[str]) -> Mask | None:
    """The pixels that show the concept, at the map's size; None where the dataset does not know it."""
    if concept is None:
        return None
    if one.dataset is None:
        notes.append(f"{name} is of no dataset, so where it shows {concept} is not known; there is no IoU")
        return None
    known = one.dataset.concepts
    if concept not in known:  # another word for it
        concept = next((name for name, about in known.items() if concept.lower() in about.forms), concept)
    if concept not in known:
        notes.append(f"{one.dataset.name} has no concept {concept}, so there is no IoU on {name}")
        return None
    region: Mask = np.asarray(one.dataset.mask(name, concept), np.bool_)
    if not region.any():
        notes.append(f"{name} does not show {concept}, or where is not known; there is no IoU")
        return None
    shape = region.shape
    if abs(shape[0] * size[1] / (shape[1] * size[0]) - 1) > 0.02:
        notes.append(
            f"the outline of {concept} in {name} is of another picture ({shape[1]} x {shape[0]}); it is not used"
        )
        return None
    return resampled(region, (size[0], size[1]))


def _placeholders(live: LiveModel, ids: Sequence[int], kind: str) -> list[int]:
    """The positions of the tokens that stand for media of a kind."""
    token = live.encoder.role_of.media_ids[kind]
    return [position for position, token_id in enumerate(ids) if token_id == token]


def _words(live: LiveModel, one: ToShow, prompt: Prompt) -> list[int]:
    """The positions of the words that were asked and answered, without special tokens and the chat template's words.

    Where the tokenizer rewrites the text, with the template's.
    """
    tokens = torch.tensor([[*prompt.ids, *prompt.answer]])
    roles = live.encoder.role_of(tokens, torch.ones_like(tokens))[0].tolist()
    words = [position for position, role in enumerate(roles) if ROLES[role] == "text"]
    text = live.encoder.decode(prompt.ids)
    if one.prompt not in text:
        return words
    start = text.index(one.prompt)
    asked = set(tokens_of((start, start + len(one.prompt)), live.encoder.ends(prompt.ids)))
    return [position for position in words if position in asked or position >= len(prompt.ids)]
