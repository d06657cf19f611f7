"""The address of a neuron: `layer/index`, or `component/layer/index` outside the language model.

A neuron is one coordinate of the *input of an FFN down projection* (after activation and gate).
Layers and indices count from 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from atlas.errors import UsageError

LANGUAGE = "language"
"""The component whose neurons need no prefix: the language model."""

PRODUCT, GATE = "product", "gate"
TAPS = (PRODUCT, GATE)
"""Where a neuron is read: at the down projection's input, or at the activation function's output."""

INPUT = "input"
"""The input of a plain FFN's activation function, where only paths of gradients begin
(`ingest.attribution.path_gradients`)."""

_ADDRESS = re.compile(r"(?:(?P<component>[a-z][a-z0-9_]*)/)?(?P<layer>\d{1,6})/(?P<index>\d{1,9})")


@dataclass(frozen=True, slots=True, order=True)
class Neuron:
    """One FFN neuron. Orders by layer, then index, within a component."""

    component: str
    layer: int
    index: int

    @classmethod
    def parse(cls, text: str) -> Neuron:
        """Read `3/117` or `vision/3/117`.

        Raises:
            UsageError: the text is not an address.
        """
        match = _ADDRESS.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"'{text}' is not a neuron; write layer/index, for example 3/117 or vision/3/17")
        return cls(match["component"] or LANGUAGE, int(match["layer"]), int(match["index"]))

    def __str__(self) -> str:
        prefix = "" if self.component == LANGUAGE else f"{self.component}/"
        return f"{prefix}{self.layer}/{self.index}"


def no_such_neuron(neuron: Neuron, model: str, layers: int, width: int) -> UsageError:
    """The error for an address beyond a model's last neuron."""
    return UsageError(f"no neuron {neuron}; {model} has neurons 0/0 to {layers - 1}/{width - 1}")


def no_exemplars(neuron: Neuron) -> str:
    """Why no example is stored as one that excites a neuron."""
    return f"no exemplars of {neuron} are stored: it is above 0 on no example, or its run kept none (`exemplars`)"


def parse_layers(text: str) -> tuple[int, ...]:
    """Read a set of layers: `3`, `8-15`, `0,2,8-15` -> sorted layer numbers.

    Raises:
        UsageError: the text is not a list of layers and ranges.
    """
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        low = int(match[1]) if match else 0
        high = int(match[2] or match[1]) if match else -1
        if match is None or high < low or high - low > 10_000:
            raise UsageError(f"'{text}' is not a set of layers; write for example 3 or 8-15 or 0,2,8-15")
        layers.update(range(low, high + 1))
    return tuple(sorted(layers))
