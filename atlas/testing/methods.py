"""The contract of an attribution method (`ingest.attribution.estimators.Method`), on tiny random models on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save

from atlas.live.model import LiveModel
from atlas.testing.attribution import ANSWERS, feed, make_items, maps_of, passes
from atlas.testing.contract import ContractError, Entry, check_build, entry_of, failing, is_planted, tiny, untouched
from atlas.testing.planted import region_of, seeing_neuron, speaking_neuron
from ingest.attribution.estimators import (
    GRADIENT,
    IMAGE_TARGET,
    REGION,
    TEXT_TARGET,
    TWIN,
    Method,
    NeuronMap,
    PairMethod,
)
from ingest.attribution.item import Item
from ingest.attribution.reductions import AUROC, COHENS_D, CONTRAST, MEAN
from ingest.attribution.trace import ATTENTION, traced

MENTIONING = {"dog": 5, "cat": 3, "hot dog": 2}
"""How many of the answers mention each concept; a hot dog is not a dog."""
LAYERS, WIDTH = 2, 64
ATTRIBUTES = ("sources", "targets", "needs", "update", "state", "merge", "result")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Exceptions that a method may need; see `check_method`."""

    planted: bool = True
    sparse: bool = False
    ties: int = 1
    unplanted_parts: tuple[str, ...] = ()


def check_method(
    module_or_build: ModuleType | Callable[..., Method],
    *,
    name: str | None = None,
    planted: bool = True,
    sparse: bool = False,
    ties: int = 1,
    unplanted_parts: Sequence[str] = (),
) -> None:
    """Check a method, given as its module or its `build`, with its default parameters; it takes a second or a few.

    A planted neuron comes first for its concept. Maps have one finite float32 score for every neuron and the number of
    examples they average over; the same examples give the same scores. One batch of eight equals two batches, and
    merging the states of two halves, in either order and through a file, equals one pass. Nothing is left on the model
    after a pass, nor after one that fails.

    planted: whether the neuron must come first; False for a control whose scores are chance.
    sparse: scores are NaN for neurons that a filter of the method removes, or that have none.
    ties: how many neurons may share the highest score, where a method counts.
    unplanted_parts: parts for which the planted neuron is not an example.

    Raises:
        ContractError: the method breaks its contract; the message names the method and the fault.
    """
    entry = entry_of(module_or_build, name)
    allowed = Allowed(planted, sparse, ties, tuple(unplanted_parts))
    check_build(entry)
    check_attributes(entry)
    if planted:
        check_planted(entry, allowed)
    for live in _models(entry):
        check_nothing_left(entry, live)
        check_maps(entry, live, allowed)
        check_batches(entry, live)


def check_attributes(entry: Entry) -> None:
    """It has the attributes of `Method`, with values that a job can use."""
    method = entry.build()
    missing = [a for a in ATTRIBUTES if not hasattr(method, a)]
    entry.require(not missing, f"what build returns has no {', '.join(missing)}")
    for attribute, known in (("targets", {TEXT_TARGET, IMAGE_TARGET}), ("needs", {GRADIENT, ATTENTION, TWIN, REGION})):
        value = getattr(method, attribute)
        entry.require(isinstance(value, frozenset), f"{attribute} is not a frozenset")
        entry.require(value <= known, f"{attribute} has {sorted(value - known)}; a job knows {sorted(known)}")
    entry.require(method.targets, "targets is empty, so that no job could use it")
    sources = method.sources
    entry.require(sources is None or isinstance(sources, frozenset), "sources is neither None nor a frozenset")
    if sources is not None and "image" not in sources:
        raise ContractError(f"{entry.name}: it takes only {sorted(sources)}, for which this check has no examples")


def check_planted(entry: Entry, allowed: Allowed) -> None:
    """The planted neuron has the highest score of every map of the mean over its concept's examples."""
    if entry.build().sources is None:
        model = speaking_neuron()
        # A filter removes what is strong for every concept: it gets dogs only.
        items = make_items(model.live, answers=["a dog", "dog"] if allowed.sparse else ANSWERS)
        source = "text"
    elif REGION in entry.build().needs:
        model = seeing_neuron(side=32)  # of few tokens, many neurons' maps would be alike
        region = region_of(model)
        items = make_items(model.live, model.pictures[0], ["a dog"] * 8, regions=(region, region[::-1, ::-1]))
        source = "image"
    else:
        model = seeing_neuron()
        picture, without = model.pictures
        # By chance another region changes nothing, and its opposite changes something.
        items = make_items(model.live, picture, ["a dog"] * 8, twins=[without, picture, picture])
        source = "image"
    maps = maps_of(feed(entry.build(), model.live, [items], source))
    if all(stored.concept is None for stored in maps.values()):
        return  # it scores neurons for kinds of tokens or inputs, not for concepts
    about = [
        m for m in maps.values() if m.concept == "dog" and m.reduce == MEAN and m.part not in allowed.unplanted_parts
    ]
    entry.require(about, "it has no map of the mean over the examples of the concept that the answers mention")
    for stored in about:
        scores = stored.scores.nan_to_num(-torch.inf)
        highest, of_planted = float(scores.max()), float(scores[model.neuron])
        label = f"the map of part '{stored.part}'" if stored.part else "the map"
        first = f"neuron {divmod(int(scores.argmax()), scores.shape[1])} with {highest:.4g}"
        entry.require(
            of_planted == highest,
            f"in {label} of 'dog' the planted neuron {model.neuron} has {of_planted:.4g}; first is {first}",
        )
        ties = int((scores == highest).sum())
        entry.require(ties <= allowed.ties, f"{ties} neurons share the highest score of {label}; {allowed.ties} may")


def check_maps(entry: Entry, live: LiveModel, allowed: Allowed) -> None:
    """Shapes, type, finiteness, determinism and numbers of examples; the contrast is a difference of means."""
    items, source = _items(entry, live)
    first, again = (maps_of(feed(entry.build(), live, [items], source)) for _ in range(2))
    entry.require(first, f"it makes no map of eight examples with source {source}")
    entry.require(first.keys() == again.keys(), "the same examples give other maps the second time")
    for key, stored in first.items():
        label = f"the map {_label(key)} on {live.name}"
        scores = stored.scores
        rows = len(stored.layers)
        entry.require(scores.dtype == torch.float32, f"{label} is {scores.dtype}, not float32")
        entry.require(scores.shape == (rows, WIDTH), f"{label} has shape {tuple(scores.shape)}, not ({rows}, {WIDTH})")
        entry.require(set(stored.layers) <= set(range(LAYERS)), f"{label} has layers {stored.layers} of {LAYERS}")
        if stored.concept is not None:  # else its source may be a role of tokens
            fault = f"{label} has source '{stored.source}'; its examples had '{source}'"
            entry.require(stored.source == source, fault)
        unscored = getattr(entry.build(), "unscored", False) or (
            allowed.sparse and not (stored.part and stored.concept)
        )
        finite = bool(scores.isfinite().all()) or (unscored and not bool(scores.isinf().any()))
        entry.require(finite, f"{label} has scores that are NaN or infinite")
        same = torch.equal(scores.nan_to_num(7), again[key].scores.nan_to_num(7))
        entry.require(same, f"{label} has other scores the second time")
        if stored.concept is not None and stored.reduce == MEAN:
            count = MENTIONING[stored.concept]
            entry.require(stored.examples == count, f"{label} is of {stored.examples} examples; {count} mention it")
    method = entry.build()
    if isinstance(method, PairMethod) and CONTRAST in method.supported and not allowed.sparse:
        others = torch.stack([first[c, MEAN].scores for c in ("cat", "hot dog")]).mean(0)
        expected = first["dog", MEAN].scores - others
        close = torch.allclose(first["dog", CONTRAST].scores, expected, atol=1e-6)
        entry.require(close, "the contrast is not the mean minus the mean of the other concepts")


def check_batches(entry: Entry, live: LiveModel) -> None:
    """One batch of eight, two batches, and the states of two halves merged give the same maps."""
    items, source = _items(entry, live)

    def fresh() -> Method:
        method: Method = entry.build()
        if isinstance(method, PairMethod):
            method.reductions = method.supported
        return method

    one_batch = _all_maps(feed(fresh(), live, [items], source))
    entry.require(one_batch, f"it makes no map of eight examples with source {source}")
    split = feed(fresh(), live, [items[:3], items[3:]], source)
    left, right = (feed(fresh(), live, [part], source).state() for part in (items[:3], items[3:]))
    for state in (left, right):
        tensors = all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())
        entry.require(tensors, "state does not map names to tensors")
    merged = fresh()
    for state in (right, left):
        merged.merge(load(save({key: value.contiguous() for key, value in state.items()})))
    for way, maps in (("two batches", _all_maps(split)), ("two merged halves", _all_maps(merged))):
        entry.require(maps.keys() == one_batch.keys(), f"{way} give other maps than one batch on {live.name}")
        for key, stored in maps.items():
            alike = _alike(stored, one_batch[key]) and stored.examples == one_batch[key].examples
            entry.require(alike, f"{way} give other scores or counts than one batch in {_label(key)} on {live.name}")


def check_nothing_left(entry: Entry, live: LiveModel) -> None:
    """The model is unchanged after a pass, and after one in which the model fails while the method uses it."""
    items, source = _items(entry, live)
    with untouched(entry, live):
        feed(entry.build(), live, [items], source)
    with untouched(entry, live):
        method = entry.build()
        with traced(live, items, source, layers=None, tap="product", **passes(method)) as trace, failing(live):
            try:
                method.update(trace)
            except Exception as error:  # from a method that runs the model again
                if not is_planted(error):
                    raise


def _models(entry: Entry) -> list[LiveModel]:
    """A gated FFN with pictures and, for a method that needs no pictures, a plain one with biases."""
    return [tiny("llava")] if entry.build().sources is not None else [tiny("llava"), tiny("opt")]


def _items(entry: Entry, live: LiveModel) -> tuple[list[Item], str]:
    """Eight examples that the method can score, and their source; text where it takes any."""
    if entry.build().sources is None:
        return make_items(live), "text"
    noise = np.random.default_rng(7).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    twins = [picture.transpose(Image.Transpose(way)) for way in (0, 1, 3)]
    half = np.arange(10)[:, None] < np.full(12, 5)
    return make_items(live, picture, twins=twins, turn=50, regions=(half, ~half)), "image"


def _all_maps(method: Method) -> dict[tuple[Any, ...], NeuronMap]:
    return {(m.concept, m.source, m.reduce, m.part): m for m in method.result()}


def _alike(first: NeuronMap, second: NeuronMap) -> bool:
    if first.scores.shape != second.scores.shape:
        return False
    if first.reduce == AUROC:  # rounding may put a score into the next bin
        return float((first.scores - second.scores).nan_to_num().abs().max()) < 0.2
    tolerance = 1e-3 if first.reduce == COHENS_D else 1e-5
    return torch.allclose(first.scores, second.scores, atol=tolerance, rtol=1e-3, equal_nan=True)


def _label(key: tuple[Any, ...]) -> str:
    return " ".join(str(part) for part in key if part not in (None, "")) or "of every concept"
