"""Concepts given by one of their surface forms: a filter with the concepts in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from atlas.query.filters import And, Filter, Not, Or, Test, is_glob, tests

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


def values_of(tree: Filter, name: str) -> list[str]:
    """The values that a filter tests one field for, each once."""
    value_lists = [t.value if t.op == "in" else (t.value,) for t in tests(tree) if t.field == name]
    return list(dict.fromkeys(v for values in value_lists for v in values))


def replace_surface_forms(connection: Connection, tree: Filter) -> tuple[Filter, list[str]]:
    """The filter with concepts in place of their surface forms, and notes on what was replaced."""
    synonyms: dict[str, tuple[str, ...]] = {}
    query = """
SELECT DISTINCT name FROM concepts
WHERE list_contains(list_transform(forms, lambda f: lower(f)), lower($form)) ORDER BY name"""
    for value in values_of(tree, "concept"):
        if is_glob("concept", value) or value == "*":
            continue
        known = connection.execute("SELECT 1 FROM concepts WHERE name = $name LIMIT 1", {"name": value}).fetchall()
        if not known:
            names = tuple(r[0] for r in connection.execute(query, {"form": value}).fetchall())
            synonyms |= {value: names} if names else {}
    notes = [f"concept={','.join(names)} ('{form}' is one of its forms)" for form, names in synonyms.items()]
    return (_replaced(tree, synonyms) if synonyms else tree), notes


def _replaced(tree: Filter, names: Mapping[str, tuple[str, ...]]) -> Filter:
    if isinstance(tree, Test):
        if tree.field != "concept":
            return tree
        values = tree.value if tree.op == "in" else (tree.value,)
        new = tuple(name for v in values for name in names.get(v, (v,)))
        if tree.op == "in" or len(new) == 1:
            return replace(tree, value=new if tree.op == "in" else new[0])
        test = Test("concept", "in", new)
        return test if tree.op == "=" else Not(test)
    if isinstance(tree, Not):
        return Not(_replaced(tree.part, names))
    parts = tuple(_replaced(part, names) for part in tree.parts)
    return And(parts) if isinstance(tree, And) else Or(parts)
