"""Rows of answers as cells of a page: neurons, concepts, runs and edits are links, numbers short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from atlas.neurons import LANGUAGE, Neuron
from cli.web import links

TOKENS = ("tokens",)
HIDDEN = ("component", "neuron", "model_id", "example")
"""Columns that are told by another one."""


@dataclass(frozen=True, slots=True)
class Cell:
    """text: what is shown. link: where it leads. kind: "number", "tokens" or "text". parts: the single tokens."""

    text: str
    link: str | None = None
    kind: str = "text"
    parts: tuple[str, ...] = ()


def cells(table: pa.Table, model: str | None) -> tuple[list[str], list[list[Cell]]]:
    """The columns and rows to show. model: of neurons whose rows do not name it."""
    neurons = {"layer", "neuron"} <= {*table.column_names}
    names = [n for n in table.column_names if not (neurons and n in HIDDEN)]
    names = ["neuron" if neurons and n == "layer" else n for n in names]
    rows = table.to_pylist()
    return names, [[_cell(name, row, model, neurons) for name in names] for row in rows]


def _cell(name: str, row: Mapping[str, Any], model: str | None, neurons: bool) -> Cell:
    if neurons and name == "neuron":
        address = str(Neuron(row.get("component") or LANGUAGE, row["layer"], row["neuron"]))
        of = row.get("model") or model
        return Cell(address, links.neuron(of, address) if of else None)
    value = row[name]
    of = row.get("model") or model
    if isinstance(value, list):
        parts = tuple(text(part) for part in value)
        return Cell(" ".join(parts), kind="tokens", parts=parts)
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float):
        return Cell(text(value), kind="number")
    return Cell(text(value), _link(name, value, of))


def _link(name: str, value: Any, model: str | None) -> str | None:
    """Where the value of a column leads."""
    if not value or not isinstance(value, str):
        return None
    if name in ("concept", "about") and model and value not in ("*", "others"):
        return links.concept(model, value)
    if name in ("run", "run_id"):
        return links.run(value)
    return links.edit(value) if name == "edit" else None


def text(value: Any) -> str:
    """A value in few characters."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
