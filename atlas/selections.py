"""Saved selections: neurons under a name, each one file `selections/<name>.json`, and set algebra over them and edits.

    dog & cat      in both          dog - animal   in the first alone
    dog | cat      in either        (a | b) - c    from left to right, but for parentheses

A file has `format`, `name`, `fingerprint` (the model's weights), `neurons` (addresses, best first), `provenance` (what
was asked, of which maps), `created_at` and `note`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.conditions import Members
from atlas.edits import check_name
from atlas.errors import IntegrityError, UsageError, unknown
from atlas.filters import from_json
from atlas.grammar import text_of
from atlas.neurons import Neuron
from atlas.selection import NeuronSet, neuron_set
from atlas.store.atomic import write_atomically
from atlas.store.duckdb_errors import unwritable
from atlas.store.scratch import folder_lock

FORMAT = 1
_PART = re.compile(r"\s*([()&|]|-|[A-Za-z0-9_][A-Za-z0-9_.:@-]*)")


@dataclass(frozen=True, slots=True)
class Selection:
    """One saved selection."""

    name: str
    fingerprint: str
    neurons: tuple[Neuron, ...]
    provenance: Mapping[str, Any]
    created_at: str
    note: str | None = None

    def as_set(self) -> NeuronSet:
        return neuron_set(
            self.neurons, {"fingerprint": self.fingerprint, "selection": self.name, "of": self.provenance}
        )


def file_of(atlas: Path, name: str) -> Path:
    return atlas / "selections" / f"{name}.json"


def save(atlas: Path, name: str, neurons: NeuronSet, *, note: str | None = None, replace: bool = False) -> Selection:
    """Save neurons under a name.

    Raises:
        UsageError: a bad name, no neurons, neurons of several models, or a name that is taken and not to be replaced.
    """
    from atlas.store.ledger import now

    check_name(name, "a selection")
    fingerprint, found = neurons.provenance.get("fingerprint"), tuple(dict.fromkeys(neurons.neurons))
    if not found:
        raise UsageError("there are no neurons to save; ask for more (a larger --top, another --where)")
    if fingerprint is None:
        raise UsageError("these neurons belong to several models; choose one with --model")
    file = file_of(atlas, name)
    made = Selection(name, str(fingerprint), found, dict(neurons.provenance), now(), note)
    said = {"format": FORMAT, "name": name, "fingerprint": made.fingerprint, "neurons": [str(n) for n in found]}
    said |= {"provenance": made.provenance, "created_at": made.created_at, "note": note}
    text = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    try:
        with folder_lock(atlas):
            if file.exists() and not replace:
                raise UsageError(f"a selection called '{name}' is there already; give another name, or --replace")
            write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise unwritable(atlas, error) from error
    return made


def read(file: Path) -> Selection:
    """Read one selection's file.

    Raises:
        IntegrityError: it is damaged.
    """
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if said["format"] != FORMAT or said["name"] != file.stem:
            raise ValueError(f"it is of another format, or of '{said['name']}'")
        neurons = tuple(Neuron.parse(text) for text in said["neurons"])
        texts = (said["name"], said["fingerprint"], said["created_at"], said["note"] or "")
        if not neurons or not all(isinstance(t, str) for t in texts) or not isinstance(said["provenance"], dict):
            raise ValueError("a part is missing")
        check_name(said["name"], "a selection")
        return Selection(
            said["name"], said["fingerprint"], neurons, said["provenance"], said["created_at"], said["note"]
        )
    except (OSError, KeyError, TypeError, ValueError, AttributeError, UsageError, RecursionError) as error:
        raise IntegrityError(
            f"the selection's file {file} is damaged ({error}); save it again, or remove it"
        ) from error


def names(atlas: Path) -> list[str]:
    """Every saved selection."""
    return sorted(file.stem for file in (atlas / "selections").glob("*.json"))


def listing(atlas: Path) -> pa.Table:
    """Every saved selection: how many neurons, of which concepts and model, when, why."""
    rows = []
    for name in names(atlas):
        found = read(file_of(atlas, name))
        maps = found.provenance.get("maps", [])
        about = {key: ", ".join(dict.fromkeys(str(m[key]) for m in maps)) for key in ("concept", "method", "model")}
        rows.append({"name": name, "neurons": len(found.neurons), **about, "where": _where(found.provenance)})
        rows[-1]["weights"] = found.fingerprint[:12]
        rows[-1] |= {"created_at": found.created_at, "note": found.note}
    text = ("concept", "method", "model", "where", "weights", "created_at", "note")
    types = [("name", pa.string()), ("neurons", pa.int64()), *((key, pa.string()) for key in text)]
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


def _where(provenance: Mapping[str, Any]) -> str | None:
    """The filter that found the neurons, as text; none for a set of other selections."""
    try:
        return text_of(from_json(provenance["selection"]["where"]))
    except (KeyError, TypeError, UsageError):
        return None


def remove(atlas: Path, name: str) -> None:
    """Remove a saved selection.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in names(atlas):
        raise unknown("selection", name, names(atlas), "atlas select ls")
    file_of(atlas, name).unlink()


def named(atlas: Path, name: str) -> NeuronSet:
    """The neurons of a saved selection or a stored edit; `selection:NAME` and `edit:NAME` say which.

    Raises:
        UsageError: neither, or both.
    """
    from atlas import stored

    kind, colon, plain = name.partition(":")
    if colon and kind not in ("selection", "edit"):
        raise UsageError(f"'{name}' is no set of neurons; write a name, selection:NAME or edit:NAME")
    plain = plain if colon else name
    saved = plain in names(atlas)
    edits = stored.known(atlas) if kind == "edit" or not saved or not colon else set()
    if saved and not colon and plain in edits:
        raise UsageError(f"both a selection and an edit are called '{plain}'; write selection:{plain} or edit:{plain}")
    if saved and kind != "edit":
        return read(file_of(atlas, plain)).as_set()
    if kind == "selection" or (not colon and plain.partition("@")[0] not in edits):
        there = set(names(atlas)) | (set() if colon else edits)
        raise unknown("selection or edit" if not colon else "selection", plain, there, "atlas select ls")
    return stored.read(atlas, plain).neurons


def of_expression(atlas: Path, expression: str) -> NeuronSet:
    """The neurons of a set expression.

    Raises:
        UsageError: not one, a name that does not exist, or neurons of two models.
    """
    if len(expression) > 2000:
        raise UsageError("a set of selections has at most 2,000 characters")
    parts, at = [], 0
    while at < len(expression.rstrip()):
        found = _PART.match(expression, at)
        if found is None:
            raise _no_set(expression)
        parts.append(found[1])
        at = found.end()
    result, rest = _joined(atlas, parts, expression, 0)
    if rest:
        raise _no_set(expression)
    return result


def _joined(atlas: Path, parts: list[str], whole: str, depth: int) -> tuple[NeuronSet, list[str]]:
    result, parts = _operand(atlas, parts, whole, depth)
    while parts and parts[0] in "&|-":
        sign = parts[0]
        other, parts = _operand(atlas, parts[1:], whole, depth)
        result = {"&": result.__and__, "|": result.__or__, "-": result.__sub__}[sign](other)
    return result, parts


def _operand(atlas: Path, parts: list[str], whole: str, depth: int) -> tuple[NeuronSet, list[str]]:
    if not parts or parts[0] in "&|-)" or depth > 50:
        raise _no_set(whole)
    if parts[0] != "(":
        return named(atlas, parts[0]), parts[1:]
    inner, rest = _joined(atlas, parts[1:], whole, depth + 1)
    if not rest or rest[0] != ")":
        raise _no_set(whole)
    return inner, rest[1:]


def _no_set(expression: str) -> UsageError:
    return UsageError(
        f"'{expression}' is no set of neurons; write for example 'dog & cat' or '(a | b) - c', with spaces"
    )


def members(atlas: Path, expression: str) -> Members:
    """What a filter's `selection` test asks for."""
    found = of_expression(atlas, expression)
    neurons: dict[str, set[tuple[int, int]]] = {}
    for neuron in found.neurons:
        neurons.setdefault(neuron.component, set()).add((neuron.layer, neuron.index))
    return Members(str(found.provenance["fingerprint"]), neurons)
