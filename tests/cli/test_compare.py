"""query with rules and votes, shared, only, layers and agreement as commands: what is printed where."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas
from atlas.store import engine

Run = Callable[..., tuple[int, str, str]]


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def addresses(out: str) -> list[tuple[int, int]]:
    return [(r["layer"], r["neuron"]) for r in rows(out)]


def test_query_by_rule_minus_another_map(stored_atlas: Path, run: Run) -> None:
    atlas = Atlas.open(stored_atlas)
    question = ("query", "--concept", "dog", "--atlas", stored_atlas)
    code, out, err = run(*question, "--select", "per_layer:9")
    dog = [(n.layer, n.index) for n in atlas.select("per_layer:9", "dog")]
    assert code == 0 and addresses(out) == dog and len(dog) == 18
    cat = [(n.layer, n.index) for n in atlas.select("per_layer:9", "cat")]
    _, out, told = run(*question, "--select", "per_layer:9", "--minus", "concept=cat")
    assert addresses(out) == [at for at in dog if at not in cat]
    assert "using method=contribution (also stored: " in told and told == err  # what was filled in, as without it
    assert "SELECT" in run(*question, "--minus", "concept=cat", "--explain")[1]
    _, out, _ = run(*question, "--minus", "concept=cat,source=text", "--json")
    whole = json.loads(out)["provenance"]
    assert (whole["set"], whole["right"]["maps"][0]["source"]) == ("minus", "text")
    _, out, err = run(*question, "--select", "per_layer:9", "--top", "4")
    assert addresses(out) == dog[:4] and "there are more: a larger --top, or --after" in err
    assert "per_layer" not in run(*question, "--select", "per_layer:9", "--explain")[1]  # the SQL, with bound values
    assert run(*question)[1] == run(*question, "--select", "top:20")[1] == run(*question, "--top", "20")[1]


def test_methods_and_concepts_vote(stored_atlas: Path, run: Run) -> None:
    code, out, err = run(
        *("query", "--concept", "dog", "--methods", "contribution,activation,ablation"),
        *("--agree", "2", "--source", "text", "--top", "30", "--atlas", stored_atlas),
    )
    atlas = Atlas.open(stored_atlas)
    tops = {m: set(atlas.query("dog", m, source="text", top=30)) for m in ("contribution", "activation", "ablation")}
    found = rows(out)
    assert code == 0 and found and "agree=" not in err, err
    for row in found:
        who = [m for m, top in tops.items() if (row["layer"], row["neuron"]) in {(n.layer, n.index) for n in top}]
        assert row["found_by"] == who and row["votes"] == len(who) >= 2
        assert {m for m in tops if (row[f"rank_{m}"] or 99) <= 30} == set(who)
    code, out, err = run("query", "--supercategory", "animal", "--top", "60", "--atlas", stored_atlas)
    assert code == 0 and all(r["found_by"] == ["cat", "dog"] for r in rows(out))
    assert "using agree=2 (more than half of 2)" in err
    few = run("query", "--supercategory", "animal", "--top", "1", "--reduce", "contrast", "--atlas", stored_atlas)
    assert few[:2] == (0, "") and "a smaller --agree asks for fewer" in few[2]


def test_shared_and_only_say_what_chance_gives(stored_atlas: Path, run: Run) -> None:
    question = ("--concept", "dog", "--method", "contribution", "--top", "20", "--atlas", stored_atlas)
    _, out, err = run("shared", *question, "--json")
    whole = json.loads(out)
    s = whole["facts"]
    assert len(whole["rows"]) == s["shared"] and s["matched"] == "layer and mean |activation|"
    assert f"{s['shared']} of 20 in the tops of both image and text\n" in err
    assert f"  by any neurons: {s['expected']:.2g} expected, lift" in err
    assert "  by neurons of the same layer and mean |activation|: " in err
    assert "  by other concepts' neurons (2 pairs): " in err
    assert "verdict: cannot tell from 1 other concept" in err and s["verdict"].startswith("cannot tell")
    _, out, err = run("only", *question, "--sources", "text,image", "--json")
    alone = json.loads(out)
    assert len(alone["rows"]) == alone["facts"]["only"] == 20 - s["shared"]
    assert f"{20 - s['shared']} of 20 in the top of text and not of image" in err
    assert run("shared", *question[:2], "--only", "image", "--atlas", stored_atlas)[0] == 2


def test_one_row_a_concept(stored_atlas: Path, run: Run) -> None:
    question = ("--concepts", "all", "--method", "contribution", "--top", "20", "--atlas", stored_atlas)
    _, out, err = run("shared", *question)
    found = {r["concept"]: r for r in rows(out)}
    assert set(found) == {"cat", "dog"} and all(r["q"] >= r["p"] for r in found.values())
    assert "2 concepts; q is the false discovery rate over them; matched: neurons of the same" in err
    _, out, _ = run("only", "--supercategory", "animal", *question[2:], "--csv")
    for row in csv.DictReader(io.StringIO(out)):
        assert int(row["only"]) == 20 - found[row["concept"]]["shared"]
    assert len(rows(run("shared", "--concepts", "dog", *question[2:])[1])) == 1


def test_layers_of_one_selection_and_of_two(stored_atlas: Path, run: Run) -> None:
    question = ("layers", "--concept", "dog", "--method", "contribution", "--atlas", stored_atlas)
    _, out, _ = run(*question, "--source", "text", "--top", "30")
    found = rows(out)
    assert [(r["set"], r["layer"]) for r in found] == [("text", 0), ("text", 1)]
    assert sum(r["count"] for r in found) == 30 and found[-1]["cumulative"] == pytest.approx(1)
    assert run(*question, "--sources", "text", "--top", "30")[1] == out
    _, out, _ = run(*question, "--sources", "text,image", "--select", "top:30")
    found = rows(out)
    assert [r["set"] for r in found] == ["text", "text", "image", "image", "both", "both"]
    shared = Atlas.open(stored_atlas).shared("dog", "contribution", top=30).neurons
    assert [r["count"] for r in found[4:]] == [sum(n.layer == layer for n in shared) for layer in (0, 1)]
    code, out, err = run("layers", "--concept", "dog", "--methods", "random,activation", "--atlas", stored_atlas)
    assert code == 0 and {r["set"] for r in rows(out)} == {"random", "activation", "both"}
    assert "reduce" not in err  # mean is the only one that both have


def test_agreement_where_there_is_nothing_to_compare(own_atlas: Path, run: Run) -> None:
    with engine.connect_writer(own_atlas) as connection:
        connection.exec_driver_sql("DELETE FROM maps WHERE method <> 'contribution'")
    code, _, err = run("agreement", "--pairs", "--atlas", own_atlas)
    assert code == 2 and "no run has maps of two methods" in err


def test_agreement_of_pairs(stored_atlas: Path, run: Run) -> None:
    question = ("agreement", "--source", "text", "--atlas", stored_atlas)
    _, out, _ = run(*question, "--pairs", "--concept", "dog", "--json")
    whole = json.loads(out)
    assert whole["facts"]["seed"] == 0 and {r["interval"] for r in whole["rows"]} == {"neurons"}
    assert json.loads(run(*question, "--json")[1])["facts"]["reference"] == "ablation"


def test_the_leaderboard_says_what_it_is_a_mean_over_and_of_what(own_atlas: Path, run: Run) -> None:
    code, out, err = run("leaderboard", "--atlas", own_atlas)
    found = {(r["source"], r["method"]): r for r in rows(out)}
    assert code == 0 and found["text", "contribution"]["ranked"] == 2
    assert found["text", "contribution"]["ablated"] is None and "dataset" not in err
    table = run("leaderboard", "--format", "table", "--atlas", own_atlas)[1]
    assert table.split()[:5] == ["source", "method", "reduce", "metric", "ranked"]
    copies = (
        "datasets SELECT * REPLACE (99 AS dataset_id, 'old' AS name)",
        "concepts SELECT * REPLACE (concept_id + 90 AS concept_id, 99 AS dataset_id)",
        "runs SELECT * REPLACE ('old' || run_id AS run_id, 99 AS dataset_id, '2001-01-01T00:00:00' AS finished_at)",
        "maps SELECT * REPLACE (map_id + 9000 AS map_id, 'old' || run_id AS run_id, concept_id + 90 AS concept_id)",
        "scores SELECT * REPLACE (map_id + 9000 AS map_id)",
    )
    with engine.connect_writer(own_atlas) as connection:
        for copy in copies:
            connection.exec_driver_sql(f"INSERT INTO {copy} FROM {copy.split()[0]}")
        connection.exec_driver_sql(
            "DELETE FROM maps WHERE map_id >= 9000 AND concept_id IS NOT NULL AND concept_id % 90 > 0"
        )
    for command in ("leaderboard", "agreement"):
        code, out, err = run(command, "--source", "text", "--atlas", own_atlas)
        assert code == 0 and "using dataset=scenes (also stored: old)" in err
        assert {r.get("ranked", r.get("maps")) for r in rows(out)} <= {2, None}
        _, out, err = run(command, "--source", "text", "--dataset", "old", "--atlas", own_atlas)
        assert {r.get("ranked", r.get("maps")) for r in rows(out)} <= {1, None} and "using " not in err


def test_the_questions_load_neither_torch_nor_scipy_to_start() -> None:
    code = (
        "import sys, cli.main, atlas.api; "
        "print([m for m in ('torch', 'transformers', 'scipy', 'sqlalchemy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_sister_commands_take_the_same_options(run: Run, stored_atlas: Path) -> None:
    """`--source` where one is meant, `--reduce` and `--run` wherever maps are."""
    number = json.loads(run("runs", "--json", "--atlas", stored_atlas)[1])["rows"][0]["run"]
    of_run = ("--run", number, "--reduce", "mean", "--atlas", stored_atlas)
    for pairs in ((), ("--pairs",)):
        found = run("agreement", *pairs, *of_run, "--json")
        assert found[0] == 0 and {r["reduce"] for r in json.loads(found[1])["rows"]} == {"mean"}
    assert run("neuron", "0/1", "--source", "text", "--target", "text", "--dataset", "scenes", *of_run)[0] == 0
    for command in ("shared", "only"):
        code, _, err = run(command, "--concept", "dog", "--source", "image", "--atlas", stored_atlas)
        assert code == 2 and "two" in err  # one source is nothing to compare, and is not taken for the default
        code, _, err = run(command, "--concept", "dog", "--source", "image", "--sources", "image,text")
        assert code == 2 and "--source and --sources both say what source is" in err
