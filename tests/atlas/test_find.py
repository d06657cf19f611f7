"""The query language against a slow reference: every test of every row, one at a time, in Python."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from atlas import Atlas
from atlas.edits import kinds
from atlas.edits.set_expression import members
from atlas.errors import UsageError
from atlas.query.execute import by_filter
from atlas.query.filter_text import parse, text_of
from atlas.query.filters import EFFECTS, NUMBERS, And, Filter, Not, Or, as_json, from_json
from atlas.query.filters import Test as Probe
from atlas.query.find import NeuronQuery
from atlas.query.paging import SHOWN
from atlas.query.request import build_filter
from atlas.store import create, engine
from atlas.store.database import open_readonly
from atlas.store.insert import insert
from atlas.store.ledger import json_text
from atlas.store.schema import effects, labels, runs

LAYERS, WIDTH = 3, 20
CONCEPTS = ("dog", "cat", "horse", "*")
METHODS = ("contribution", "activation")
WORDS = ("bark", "Barks", " bark", "meow", "b.rk", "%", "*")
Row = dict[str, Any]


def drawn(seed: int) -> dict[tuple[int, int], float]:
    generator = np.random.default_rng(seed)
    return {(y, n): float(np.float32(generator.integers(-6, 7) / 4)) for y in range(LAYERS) for n in range(WIDTH)}


def words(y: int, n: int) -> list[str]:
    return [WORDS[(3 * y + n) % len(WORDS)], WORDS[(n * n) % len(WORDS)]]


@pytest.fixture(scope="module")
def atlas(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Any], store_maps: Callable[..., None]
) -> Atlas:
    """Two runs (image, text) of two methods over three concepts and all of them; tokens, labels, effects, an edit."""
    path = tmp_path_factory.mktemp("find") / "x.atlas"
    create.init(path)
    for seed, source in ((1, "image"), (2, "text")):
        run = make_run(seed, concepts=("dog", "cat", "horse"), layers=LAYERS, width=WIDTH)
        tokens = [
            {"model_id": 0, "component": "language", "layer": y, "neuron": n, "projection": projection, "side": side}
            | {
                "tokens": words(y, n) if (projection, side) == ("z", "top") else ["other"],
                "token_ids": [1],
                "values": [1.0],
            }
            for y in range(LAYERS)
            for n in range(WIDTH)
            for projection in ("z", "plain")
            for side in ("top", "bottom")
        ]
        tables = dict(run.tables)
        tables["decodings"] = (
            tables["decodings"].schema.empty_table().from_pylist(tokens, schema=tables["decodings"].schema)
        )
        for name in ("labels", "effects", "measures", "points", "exemplars", "responses"):
            tables[name] = tables[name].slice(0, 0)
        found = {
            m: {c if c != "*" else None: drawn(100 * seed + 10 * i + j) for j, c in enumerate(CONCEPTS)}
            for i, m in enumerate(METHODS)
        }
        store_maps(path, replace(run, tables=tables), found, source=source)
    there = Atlas.open(path)
    there.create_edit("no-dog", there.query("dog", "contribution", source="text", top=15), kinds.ablate())
    _facts(path)
    there.save_selection("even", there.query("cat", "activation", source="image", where="neuron in 0,2,4,6,8,10"))
    return there


def _facts(path: Path) -> None:
    """Labels, and what an edit and a survey did."""
    survey = {"activation:3:mean:cat|image": ["0/1", "2/7", "language/1/3"]}
    run = {"run_id": "e" * 32, "kind": "evaluate", "status": "done", "model_id": 1, "dataset_id": 1, "outcome": "{}"}
    run |= {"job": json_text({"survey": survey}), "environment": "{}", "started_at": "a", "finished_at": "b"}
    labelled = [
        {
            "run_id": "e" * 32,
            "component": "language",
            "layer": y,
            "neuron": n,
            "label": label,
            "rule": rule,
            "score": 1.0,
        }
        for y, n, label, rule in LABELS
    ]
    shared = {"run_id": "e" * 32, "source": "image", "task": "*", "metric": "accuracy", "low": None, "high": None}
    measured = []
    for edit, concept, (before, own, random, others) in MEASURED:
        values = {("concept", "before"): before, ("concept", "edit"): own, ("concept", "random"): random}
        for (subset, condition), value in (values | {("others", "edit"): others}).items():
            row = {**shared, "edit": edit, "concept": concept, "subset": subset, "condition": condition, "value": value}
            measured += [
                row | {"examples": 4, "seeds": 1},
                row | {"task": "does", "value": 0.77, "examples": 4, "seeds": 1},
            ]
    import pyarrow as pa

    from atlas.store.arrow_types import arrow_schema

    with engine.connect_writer(path) as connection:
        for table, rows in ((runs, [run]), (labels, labelled), (effects, measured)):
            insert(connection, table, pa.Table.from_pylist(rows, schema=arrow_schema(table)))


LABELS = [
    (0, 1, "image", "miner LA_MU"),
    (1, 3, "image", "lape"),
    (1, 3, "text", "miner LA_MU"),
    (2, 19, "text", "lape"),
]
MEASURED = [
    ("no-dog@1", "dog", (1.0, 0.25, 1.0, 0.75)),
    ("activation:3:mean:cat", "cat", (0.75, 0.5, 0.625, 1.0)),
]


def facts(atlas: Atlas) -> list[Row]:
    """Every row of every map with all that can be asked of it."""
    edited = {(n.layer, n.index) for n in atlas.edit("no-dog").neurons}
    even = {(n.layer, n.index) for n in atlas.selection("even")}
    names = {"model": "tiny", "dataset": "scenes", "target": "text", "component": "language", "reduce": "mean"}
    names |= {"tap": "product", "fingerprint": "f" * 64}
    found = []
    for seed, source in ((1, "image"), (2, "text")):
        run = str(atlas.query("dog", source=source, top=1).provenance["maps"][0]["run_id"])
        for i, method in enumerate(METHODS):
            for j, concept in enumerate(CONCEPTS):
                scores = drawn(100 * seed + 10 * i + j)
                values = np.array(list(scores.values()))
                spread = float(median_abs_deviation(values, scale="normal"))
                order = sorted(scores, key=lambda at: (-scores[at], at))
                for rank, at in enumerate(order, start=1):
                    touched = {"no-dog@1": edited, "activation:3:mean:cat": {(0, 1), (2, 7), (1, 3)}}
                    asked = [v for e, c, v in MEASURED if at in touched[e] and concept in (c, "*")]
                    done = asked if source == "image" else []  # what was measured is about pictures
                    row = {
                        **names,
                        "source": source,
                        "method": method,
                        "concept": concept,
                        "layer": at[0],
                        "neuron": at[1],
                    }
                    row |= {"supercategory": None if concept == "*" else "animal", "score": scores[at], "rank": rank}
                    row |= {"percentile": 100.0 * (len(order) - rank + 1) / len(order)}
                    row |= {"placed": scores[at] != 0 or max(scores.values()) <= 0}
                    row |= {"z": (scores[at] - float(np.median(values))) / spread, "token": words(*at), "effects": done}
                    row |= {"label": [(la, r) for y, n, la, r in LABELS if (y, n) == at], "even": at in even}
                    found.append(row | {"run": run})
    return found


def passes(tree: Filter, row: Row) -> bool:
    if isinstance(tree, And):
        return all(passes(part, row) for part in tree.parts)
    if isinstance(tree, Or):
        return any(passes(part, row) for part in tree.parts)
    if isinstance(tree, Not):
        return not passes(tree.part, row)
    values = tree.value if tree.op == "in" else (tree.value,)
    if tree.field in ("rank", "percentile") and not row["placed"]:
        return False
    if tree.field in NUMBERS:
        return number(tree, row[tree.field], values)
    if tree.field.startswith("effect."):
        before_own_random_others = row["effects"]
        measure = {
            "suppression": lambda b, o, r, x: b - o,
            "retention": lambda b, o, r, x: x,
            "selectivity": lambda b, o, r, x: x - o,
            "beyond_random": lambda b, o, r, x: r - o,
        }[tree.field.partition(".")[2]]
        return any(number(tree, measure(*done), values) for done in before_own_random_others)
    return any(has(tree.field, value, row) for value in values) != (tree.op == "!=")


def number(test: Probe, value: float, values: tuple[Any, ...]) -> bool:
    if test.field == "score":
        values = tuple(float(np.float32(v)) for v in values)
    compare = {"=": value.__eq__, "!=": value.__ne__, "<": value.__lt__, "<=": value.__le__}
    compare |= {">": value.__gt__, ">=": value.__ge__}
    if test.op != "in":
        return bool(compare[test.op](type(value)(values[0]) if isinstance(value, float) else values[0]))
    for wanted_value in values:
        if isinstance(wanted_value, str):
            low, high = wanted_value.split("-")
            if int(low) <= value <= int(high):
                return True
        elif value == wanted_value:
            return True
    return False


def has(field: str, value: str, row: Row) -> bool:
    glob = (field, value) != ("concept", "*") and ("*" in value or "?" in value)
    if field == "token":
        said = [t.strip().lower() for t in row["token"]]
        wanted_token = value.lower() if glob else value.strip().lower()
        return any(
            fnmatch.fnmatchcase(t, wanted_token.replace("[", "[[]")) if glob else t == wanted_token for t in said
        )
    if field == "label":
        rule, colon, label = value.partition(":")
        return any(la == (label if colon else value) and r.startswith(rule if colon else "") for la, r in row["label"])
    if field == "selection":
        return bool(row["even"]) if value == "even" else bool(row["even"] and row["layer"] == 9)
    stored = row[field]
    if stored is None:
        return False
    if glob:
        return stored != "*" and fnmatch.fnmatchcase(stored, value.replace("[", "[[]"))
    return bool(stored.startswith(value)) if field in ("run", "fingerprint") else bool(stored == value)


WHOLES = st.one_of(
    st.integers(0, 25), st.integers(0, 9).flatmap(lambda a: st.integers(a, 25).map(lambda b: f"{a}-{b}"))
)
QUARTERS = st.integers(-8, 8).map(lambda i: i / 4)
COMPARED = ("=", "!=", "<", "<=", ">", ">=")
NAMES = {
    "concept": ("dog", "cat", "horse", "*", "d*", "?at", "*o*"),
    "method": (*METHODS, "act*", "*"),
    "source": ("image", "text", "audio"),
    "supercategory": ("animal", "vehicle", "an*"),
    "dataset": ("scenes", "x"),
    "reduce": ("mean", "contrast"),
    "fingerprint": ("ff", "0"),
    "tap": ("product", "g*"),
    "component": ("language", "vision"),
    "token": ("bark", "BARK", "meow", "b?rk", "bark*", "*", "b.rk", "%", "[b]*"),
    "label": ("image", "text", "miner:image", "lape:text", "lape:image"),
    "selection": ("even",),
}


def _test(field: str) -> st.SearchStrategy[Probe]:
    if field.startswith("effect."):
        return st.builds(
            Probe, st.just(field), st.sampled_from(["<", "<=", ">", ">="]), st.integers(-4, 8).map(lambda i: i / 8)
        )
    if field in ("layer", "neuron", "rank"):
        single = st.builds(
            Probe, st.just(field), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.integers(0, 25)
        )
        return st.one_of(
            single, st.builds(Probe, st.just(field), st.just("in"), st.lists(WHOLES, min_size=1, max_size=3).map(tuple))
        )
    if field in NUMBERS:
        values = QUARTERS if field != "percentile" else st.integers(0, 100).map(float)
        single = st.builds(Probe, st.just(field), st.sampled_from(COMPARED), values)
        return st.one_of(
            single, st.builds(Probe, st.just(field), st.just("in"), st.lists(values, min_size=1, max_size=3).map(tuple))
        )
    value = st.sampled_from(NAMES[field])
    single = st.builds(Probe, st.just(field), st.sampled_from(["=", "!="]), value)
    return st.one_of(
        single, st.builds(Probe, st.just(field), st.just("in"), st.lists(value, min_size=1, max_size=3).map(tuple))
    )


TESTS = st.sampled_from([*NUMBERS, *NAMES, *(f"effect.{e}" for e in EFFECTS)]).flatmap(_test)
TREES = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda p: And(tuple(p))),
        st.lists(inner, min_size=1, max_size=3).map(lambda p: Or(tuple(p))),
        inner.map(Not),
    ),
    max_leaves=8,
)
# What is left open would be filled in; here everything is mentioned.
OPEN = parse("(concept = * or concept != *) and method in activation,contribution and source in image,text")


@pytest.fixture(scope="module")
def connection(atlas: Atlas) -> Iterator[Any]:
    with open_readonly(atlas.path) as opened:
        yield opened


@pytest.fixture(scope="module")
def everything(atlas: Atlas) -> list[Row]:
    return facts(atlas)


def rows_of(found: Any) -> Iterator[tuple[Any, ...]]:
    differ = {m: {r[m] for r in found.provenance["maps"]} for m in ("concept", "method", "source")}
    for row in found.to_arrow().to_pylist():
        names = [row.get(m, next(iter(differ[m]))) for m in ("concept", "method", "source")]
        yield (*names, row["layer"], row["neuron"])


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(tree=TREES)
def test_a_filter_finds_what_passes_every_test_by_hand(
    tree: Filter, atlas: Atlas, connection: Any, everything: list[Row]
) -> None:
    whole = And((OPEN, tree))
    expected = sorted(
        (r["concept"], r["method"], r["source"], r["layer"], r["neuron"]) for r in everything if passes(whole, r)
    )
    try:
        found = sorted(rows_of(by_filter(connection, NeuronQuery(whole, limit=None), partial(members, atlas.path))))
    except UsageError as error:  # no map at all is meant, or a layer or label that is not there
        assert ("no stored" in str(error) or "no layer" in str(error)) and expected == []
        return
    assert found == expected


@settings(max_examples=500)
@given(tree=TREES)
def test_a_filter_survives_text_and_json(tree: Filter) -> None:
    assert from_json(json.loads(json.dumps(as_json(tree)))) == tree
    flat = _flat(tree)
    assert parse(text_of(flat)) == flat


def _flat(tree: Filter) -> Filter:
    """As text has it: `and` of one is that one, whole numbers of a list are numbers, ranges of text."""
    if isinstance(tree, Probe):
        return tree
    if isinstance(tree, Not):
        return Not(_flat(tree.part))
    parts = tuple(_flat(part) for part in tree.parts)
    return parts[0] if len(parts) == 1 else type(tree)(parts)


@pytest.mark.parametrize(
    "sort", [(), ("-score",), ("layer", "-rank"), ("-concept", "score"), ("method", "-percentile", "neuron")]
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pages_together_are_the_whole_answer_in_order(
    atlas: Atlas, everything: list[Row], sort: tuple[str, ...], size: int
) -> None:
    tree = And((OPEN, parse("layer in 0-1 and concept in dog,cat and (z > 0.5 or token = meow) and neuron < 9")))
    pages, after = [], None
    while True:
        found = atlas.query(where=tree, sort=sort, top=size, after=after)
        pages += list(rows_of(found))
        after = found.provenance.get("next")
        if after is None:
            break
    rows = [r for r in everything if passes(tree, r)]
    assert len(pages) == len(set(pages)) == len(rows) > 20

    def key(row: Row) -> list[Any]:
        keys: list[Any] = []
        for name in (*(sort or ("rank",)), "concept", "method", "source", "layer", "neuron"):
            value = row[name.removeprefix("-")]
            keys.append(_Reversed(value) if name.startswith("-") else value)
        return keys

    rows.sort(key=key)
    assert pages == [(r["concept"], r["method"], r["source"], r["layer"], r["neuron"]) for r in rows]


class _Reversed:
    def __init__(self, value: Any):
        self.value = value

    def __lt__(self, other: _Reversed) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and self.value == other.value


def test_a_cursor_is_of_its_question_alone(atlas: Atlas) -> None:
    first = atlas.query(where="concept in dog,cat", top=5)
    for other in ({"where": "concept in dog,horse"}, {"where": "concept in dog,cat", "sort": "-score"}):
        with pytest.raises(UsageError, match="belongs to another question"):
            atlas.query(top=5, after=first.provenance["next"], **other)
    for text in ("", "x", "bm8", first.provenance["next"][:-3]):
        with pytest.raises(UsageError, match="after takes|this cursor"):
            atlas.query(where="concept in dog,cat", top=5, after=text)


def test_flags_and_the_text_are_one_language(atlas: Atlas) -> None:
    by_flags = build_filter(
        {"concept": "dog", "source": "image"}, layers="0-2", token="*a*", z=">-9", effect="suppression>0.5"
    )
    by_text = build_filter(
        {},
        where="concept = dog and source = image and layer in 0-2 and token = *a* and z > -9 "
        "and effect.suppression > 0.5",
    )
    rows = [list(rows_of(atlas.query(where=tree))) for tree in (by_flags, by_text)]
    assert rows[0] == rows[1] != []
    with pytest.raises(UsageError, match="more than one comparison"):
        build_filter({}, z="> 1 or z < 0")


def test_layers_of_a_keyword(atlas: Atlas) -> None:
    """One layer, and none at all, which is not all of them."""
    of = partial(atlas.query, where=OPEN, top=None)
    assert list(of(layers=1)) == list(of(layers=[1])) == list(of(layers="1"))
    for none in ([], ""):
        with pytest.raises(UsageError, match="'layer in' needs values|is not a set of layers"):
            of(layers=none)


def test_other_words_for_a_concept(atlas: Atlas) -> None:
    found = atlas.query("DOGS", source="text", top=3)  # one of its forms
    assert list(found) == list(atlas.query("dog", source="text", top=3))
    assert "concept=dog ('DOGS' is one of its forms)" in found.provenance["assumed"]
    assert {r["concept"] for r in atlas.query("*o*").to_arrow().to_pylist()} <= {"dog", "horse"}
    with pytest.raises(UsageError, match="no stored concept called 'dgo'; did you mean 'dog'"):
        atlas.query("dgo")


def test_only_names_in_which_maps_differ_are_columns(atlas: Atlas) -> None:
    one = atlas.query("dog").to_arrow().column_names
    assert not set(one) & set(SHOWN) and "also_found_by" in one
    two = atlas.query(where="concept in dog,cat and source in image,text").to_arrow().column_names
    assert [n for n in two if n in SHOWN] == ["concept", "source", "run"] and "also_found_by" not in two
    assert "z" in atlas.query("dog", sort="-z").to_arrow().column_names


@pytest.mark.parametrize("text", ["concept in dog,cat,horse", "concept in dog,cat and neuron < 7 and score > -0.5"])
def test_each_neuron_once_with_the_map_in_which_it_ranks_best(
    atlas: Atlas, connection: Any, everything: list[Row], text: str
) -> None:
    tree = parse(f"{text} and method = contribution and source in image,text")
    best: dict[tuple[int, int], tuple[int, str, str]] = {}
    order = {source: i for i, source in enumerate(("image", "text"))}  # the oldest map of equal ranks
    for row in sorted(everything, key=lambda r: (r["rank"], order[r["source"]], CONCEPTS.index(r["concept"]))):
        if passes(tree, row):
            best.setdefault((row["layer"], row["neuron"]), (row["rank"], row["concept"], row["source"]))
    request = NeuronQuery(tree, limit=None, each=True)
    found = by_filter(connection, request, partial(members, atlas.path)).to_pylist()
    assert {(r["layer"], r["neuron"]): (r["rank"], r["concept"], r["source"]) for r in found} == best
    assert len(found) == len(best) and [r["rank"] for r in found] == sorted(r["rank"] for r in found)
    pages = [atlas.query(where=tree, each=True, top=9)]
    while "next" in pages[-1].provenance:
        pages.append(atlas.query(where=tree, each=True, top=9, after=pages[-1].provenance["next"]))
    if "score" not in text:  # the best of whole maps, among which zeros have no place
        best.clear()
        for row in sorted(everything, key=lambda r: (r["rank"], order[r["source"]], CONCEPTS.index(r["concept"]))):
            if passes(tree, row) and row["placed"]:
                best.setdefault((row["layer"], row["neuron"]), (row["rank"], row["concept"], row["source"]))
    paged = [row for page in pages for row in page.to_arrow().to_pylist()]
    assert {(r["layer"], r["neuron"]): (r["rank"], r["concept"], r["source"]) for r in paged} == best
    assert [r["rank"] for r in paged] == sorted(r["rank"] for r in paged) and len(paged) == len(best)


def test_how_many_neurons_of_each_map_pass(atlas: Atlas, everything: list[Row]) -> None:
    tree = parse("concept in dog,cat,horse and method = contribution and source = text and (z > 1 or token = meow)")
    counted = atlas.count(where=tree)
    wanted_counts = {c: sum(passes(tree, r) for r in everything if r["concept"] == c) for c in ("dog", "cat", "horse")}
    assert {r["concept"]: r["passing"] for r in counted.to_pylist()} == wanted_counts
    assert all((r["kept"], r["neurons"]) == (60, 60) for r in counted.to_pylist())
    assert [m["concept"] for m in counted.provenance["maps"]]
    none = atlas.count(where="concept = dog and source = text and method = contribution and score > 99")
    assert none["passing"].to_pylist() == [0]
