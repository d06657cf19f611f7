"""Neurons for a text, a picture, a recording or a video: near it in the space `decoded`, or active on it in a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from atlas.errors import Unsupported, UsageError
from atlas.live.media import AUDIO, IMAGE, VIDEO, Medium, Sound, kind_of
from atlas.neurons import LANGUAGE, PRODUCT
from atlas.query.map_spec import MapSpec
from atlas.query.neuron_set import NeuronSet
from atlas.query.resolve_maps import choose_map
from atlas.store.database import open_readonly
from atlas.token_roles import ROLES
from atlas.vectors.neighbours import described_neurons, near_vector
from atlas.vectors.spaces import DECODED, choose_space, pick_model
from ingest.embed.embed import live_model
from ingest.embed.encoder import DEFAULT, OpenedEncoder, open_encoder, require
from ingest.job import Execution

if TYPE_CHECKING:
    from PIL.Image import Image

    from atlas.live.model import LiveModel

PROMPTS = {IMAGE: "describe the picture", VIDEO: "describe the video", AUDIO: "describe the recording"}
"""What the model is asked; text after a medium does not change a causal model's values on the medium."""

POSITIONS = (MEDIA, LAST) = ("media", "last")
"""The positions of the picture, recording or video, or the prompt's last one, where the answer begins."""

ROBUST = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """How to search: the model's name, the encoder (None: that of the space, or the live model) and its options.
    positions: of the live model's values, one of POSITIONS. prompt: what it is asked (None: from PROMPTS).
    loaded: its dtype and quantization, as in a job."""

    model: str | None = None
    encoder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    execution: Execution = field(default_factory=Execution)
    loaded: Mapping[str, Any] = field(default_factory=dict)
    top: int = 10
    positions: str = MEDIA
    prompt: str | None = None


def by_text(atlas: Path, text: str, spec: SearchSpec) -> NeuronSet:
    """The neurons whose decoded tokens and concepts are nearest to a text, by the encoder of the space.

    Raises:
        UsageError: the space was not built with this encoder, or the text is empty.
        Unsupported: the encoder's package is not installed. In either case `Atlas.search` still works.
    """
    if not text.strip():
        raise UsageError("the text is empty; give words to search for")
    encoder_name = spec.encoder or _spec(atlas, spec.model)
    opened = open_encoder(encoder_name, {"device": spec.execution.device, **spec.options})
    return _near(atlas, opened, require(opened, "text").texts([text])[0], spec)


def _spec(atlas: Path, model: str | None) -> str:
    """The encoder that made the newest vectors, where its name is enough to open it."""
    with open_readonly(atlas) as connection:
        space, _ = choose_space(connection, DECODED, model)
    if space.encoder != DEFAULT:
        raise UsageError(
            f"the space '{DECODED}' was made by the encoder {space.encoder}; "
            f"say where it is: [[encoder={space.encoder}:ID_OR_FOLDER]]"
        )
    return DEFAULT


def by_medium(atlas: Path, medium: Medium, spec: SearchSpec) -> NeuronSet:
    """The neurons near a picture or a recording, by an encoder and the space that it made; without an encoder, those
    most active on the picture, recording or video in the live model (see `most_active`).

    Raises:
        Unsupported: the encoder, or the model, does not take this medium.
    """
    if spec.encoder is None:
        return most_active(atlas, medium, spec)
    opened = open_encoder(spec.encoder, {"device": spec.execution.device, **spec.options})
    encoder = require(opened, kind_of(medium))
    if isinstance(medium, Sound):
        vectors = encoder.sounds([(medium.samples, medium.rate)])
    else:
        vectors = encoder.images([cast("Image", medium)])
    return _near(atlas, opened, vectors[0], spec)


def _near(atlas: Path, opened: OpenedEncoder, vector: np.ndarray, spec: SearchSpec) -> NeuronSet:
    with open_readonly(atlas) as connection:
        space, defaults = choose_space(connection, DECODED, spec.model, identity=opened.encoder.identity)
    return near_vector(atlas, vector, space, top=spec.top, defaults=defaults)


def most_active(atlas: Path, medium: Medium, spec: SearchSpec) -> NeuronSet:
    """The neurons whose value on a picture, recording or video is farthest above their usual value: component, layer,
    neuron, value, usual, z, tokens, concept; the largest z first.

    value: the mean over the medium's positions (or others, see POSITIONS). usual: the stored mean over all positions of
    such examples (map of method `activation`, concept "*"); null where there is none, which counts as 0.
    z: value - usual minus its median over the layer's neurons, divided by 1.4826 times its median absolute deviation
    there, or by the layer's mean absolute usual value where that is larger. A neuron whose value is exactly 0 is off
    and left out.

    Raises:
        UsageError: the model's weights are not the stored ones.
        Unsupported: the model does not take this medium.
    """
    if spec.positions not in POSITIONS:
        raise UsageError(f"no positions called '{spec.positions}'; there are: {', '.join(POSITIONS)}")
    kind = kind_of(medium)
    prompt = PROMPTS[kind] if spec.prompt is None else spec.prompt
    with open_readonly(atlas) as connection:
        model, assumed = pick_model(connection, spec.model)
        usual, note = _usual(connection, model, kind)
    values = on_medium(live_model(model, spec.execution, spec.loaded), medium, spec.positions, prompt)
    z = robust_z(values, np.nan_to_num(usual))
    best = [place for place in np.argsort(-z, axis=None, kind="stable") if values.flat[place] != 0][: spec.top]
    layers, neurons = np.unravel_index(np.array(best, np.int64), z.shape)
    rows = pa.table(
        {
            "component": [LANGUAGE] * len(layers),
            "layer": pa.array(layers, pa.int16()),
            "neuron": pa.array(neurons, pa.int32()),
            "value": pa.array(values[layers, neurons], pa.float32()),
            "usual": pa.array(usual[layers, neurons], pa.float32(), from_pandas=True),
            "z": pa.array(z[layers, neurons], pa.float32()),
        }
    )
    about = {"prompt": prompt, "positions": spec.positions}
    return described_neurons(atlas, rows, model, [*assumed, note], about)


def _usual(connection: Any, model: Mapping[str, Any], source: str) -> tuple[np.ndarray, str]:
    """(layers, width) each neuron's stored mean, NaN where there is none; and a note on where it is from."""
    means = np.full((int(model["layers"]), int(model["width"])), np.nan)
    map_spec = MapSpec(
        "*", "activation", source=source, reduce="mean", fingerprint=str(model["fingerprint"]), tap=PRODUCT
    )
    try:
        stored_map = choose_map(connection, map_spec)
    except UsageError:
        return (
            means,
            f"usual=0 (no means of {source} examples are stored; `atlas ingest --methods activation` stores them)",
        )
    query = "SELECT layer, neuron, score FROM scores WHERE map_id = $map"
    rows = connection.sql(query, params={"map": stored_map["map_id"]}).fetchnumpy()
    means[rows["layer"], rows["neuron"]] = rows["score"]
    return means, f"usual=the stored means over {stored_map['examples']:,} positions"


def on_medium(live: LiveModel, medium: Medium, positions: str, prompt: str) -> np.ndarray:
    """(layers, width) float32: every neuron's mean value over positions of a prompt with a medium.

    positions: one of POSITIONS.

    Raises:
        UsageError: unknown positions.
        Unsupported: the model does not take this medium, or has no positions for it.
    """
    import torch

    from atlas.live.hooks import tracing

    batch = live.batch([live.encoder.prompt(prompt, [medium])])
    selected = batch.roles[0] == ROLES.index(kind_of(medium))
    if positions not in POSITIONS:
        raise UsageError(f"no positions called '{positions}'; there are: {', '.join(POSITIONS)}")
    if not selected.any():
        raise Unsupported(f"{live.name} has no positions of the {kind_of(medium)} in its prompt")
    if positions == LAST:
        selected = torch.arange(len(selected), device=selected.device) == len(selected) - 1
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(batch)
    means = [
        capture.values[y][0][selected.to(capture.values[y].device)].float().mean(0) for y in sorted(capture.values)
    ]
    return np.stack([mean.cpu().numpy() for mean in means])


def robust_z(values: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """(layers, width) z from (layers, width) values and usual values: see `most_active`. 0 in a constant layer."""
    rise = values - usual
    deviation = rise - np.median(rise, axis=1, keepdims=True)
    spread = ROBUST * np.median(np.abs(deviation), axis=1, keepdims=True)
    # Where most neurons are off, the median deviation is nearly 0 and would make any value an outlier.
    spread = np.maximum(spread, np.abs(usual).mean(axis=1, keepdims=True))
    spread = np.where(spread > 0, spread, deviation.std(axis=1, keepdims=True))
    z_scores: np.ndarray = np.divide(deviation, spread, out=np.zeros_like(deviation), where=spread > 0)
    return z_scores
