"""Set algebra over saved selections and edits.

dog & cat      in both          dog - animal   in the first alone
dog | cat      in either        (a | b) - c    from left to right, but for parentheses
"""

from __future__ import annotations

import re
from pathlib import Path

from atlas.errors import UsageError, unknown
from atlas.query.filter_sql import Members
from atlas.query.neuron_set import NeuronSet
from atlas.query.saved import file_of, names, read

_PART = re.compile(r"\s*([()&|]|-|[A-Za-z0-9_][A-Za-z0-9_.:@-]*)")


def named(atlas: Path, name: str) -> NeuronSet:
    """The neurons of a saved selection or a stored edit; `selection:NAME` and `edit:NAME` say which.

    Raises:
        UsageError: neither, or both.
    """
    from atlas.edits import library as edit_library

    kind, colon, plain = name.partition(":")
    if colon and kind not in ("selection", "edit"):
        raise UsageError(f"'{name}' is not a set of neurons; write a name, selection:NAME or edit:NAME")
    plain = plain if colon else name
    saved = plain in names(atlas)
    edits = edit_library.known(atlas) if kind == "edit" or not saved or not colon else set()
    if saved and not colon and plain in edits:
        raise UsageError(f"both a selection and an edit are called '{plain}'; write selection:{plain} or edit:{plain}")
    if saved and kind != "edit":
        return read(file_of(atlas, plain)).as_set()
    if kind == "selection" or (not colon and plain.partition("@")[0] not in edits):
        known_names = set(names(atlas)) | (set() if colon else edits)
        raise unknown("selection or edit" if not colon else "selection", plain, known_names, "atlas select ls")
    return edit_library.read(atlas, plain).neurons


def of_expression(atlas: Path, expression: str) -> NeuronSet:
    """The neurons of a set expression.

    Raises:
        UsageError: not one, a name that does not exist, or neurons of two models.
    """
    if len(expression) > 2000:
        raise UsageError("a set of selections has at most 2,000 characters")
    parts, at = [], 0
    while at < len(expression.rstrip()):
        matched = _PART.match(expression, at)
        if matched is None:
            raise _no_set(expression)
        parts.append(matched[1])
        at = matched.end()
    result, rest = _joined(atlas, parts, expression, 0)
    if rest:
        raise _no_set(expression)
    return result


def _joined(atlas: Path, parts: list[str], expression: str, depth: int) -> tuple[NeuronSet, list[str]]:
    result, parts = _operand(atlas, parts, expression, depth)
    while parts and parts[0] in "&|-":
        sign = parts[0]
        operand, parts = _operand(atlas, parts[1:], expression, depth)
        result = {"&": result.__and__, "|": result.__or__, "-": result.__sub__}[sign](operand)
    return result, parts


def _operand(atlas: Path, parts: list[str], expression: str, depth: int) -> tuple[NeuronSet, list[str]]:
    if not parts or parts[0] in "&|-)" or depth > 50:
        raise _no_set(expression)
    if parts[0] != "(":
        return named(atlas, parts[0]), parts[1:]
    inner, rest = _joined(atlas, parts[1:], expression, depth + 1)
    if not rest or rest[0] != ")":
        raise _no_set(expression)
    return inner, rest[1:]


def _no_set(expression: str) -> UsageError:
    return UsageError(
        f"'{expression}' is not a set of neurons; write for example 'dog & cat' or '(a | b) - c', with spaces"
    )


def members(atlas: Path, expression: str) -> Members:
    """What a filter's `selection` test asks for."""
    neuron_set = of_expression(atlas, expression)
    neurons: dict[str, set[tuple[int, int]]] = {}
    for neuron in neuron_set.neurons:
        neurons.setdefault(neuron.component, set()).add((neuron.layer, neuron.index))
    return Members(str(neuron_set.provenance["fingerprint"]), neurons)
