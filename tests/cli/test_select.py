"""Saved selections, runs, SQL and whole conditions from the command line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas

Run = Callable[..., tuple[int, str, str]]


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_selections_from_saving_to_editing(own_atlas: Path, run: Run) -> None:
    place = ("--atlas", own_atlas)
    question = ("--concept", "dog", "--source", "text", "--reduce", "mean")
    assert run("select", "save", "dog", *question, "--top", "30", "--note", "mine", *place)[:2] == (
        0,
        "dog: 30 neurons\n",
    )
    code, out, err = run("select", "save", "layer1", *question, "--where", "layer = 1", "--top", "128", *place)
    assert (code, out) == (0, "layer1: 64 neurons\n") and "using method=contribution" in err
    assert run("select", "save", "dog", *question, *place)[0] == 2
    assert run("select", "save", "dog", *question, "--top", "20", "--replace", *place)[1] == "dog: 20 neurons\n"
    assert run("select", "save", "both", "--of", "dog & layer1", *place)[0] == 0
    listed = {r["name"]: r for r in rows(run("select", "ls", *place)[1])}
    assert listed["dog"]["neurons"] == 20 and listed["layer1"]["neurons"] == 64
    _, out, err = run("select", "show", "dog & layer1", "--json", *place)
    shown = json.loads(out)
    inside = {(r["layer"], r["neuron"]) for r in shown["rows"]}
    assert inside and {layer for layer, _ in inside} == {1} and f"{len(inside)} neurons" in err
    assert shown["provenance"]["set"] == "and"
    asked = rows(run("query", *question, "--in", "both", "--top", "99", *place)[1])
    assert {(r["layer"], r["neuron"]) for r in asked} == inside
    lie = rows(run("layers", "--of", "dog - both", *place)[1])
    assert [r["count"] for r in lie] == [20 - len(inside), 0] and {r["set"] for r in lie} == {"dog - both"}
    assert run("layers", "--of", "dog", "--concept", "dog", *place)[0] == 2
    assert run("edit", "create", "less", "--of", "both", "--scale", "0.5", *place)[0] == 0
    assert {(n.layer, n.index) for n in Atlas.open(own_atlas).edit("less").neurons} == inside
    assert run("select", "rm", "both", *place)[:2] == (0, "removed both\n")
    assert run("select", "show", "both", *place)[0] == 2
    assert run("db", "check", *place)[0] == 0


def test_conditions_counts_and_pages(stored_atlas: Path, run: Run) -> None:
    place = ("--atlas", stored_atlas)
    where = "concept in dog,cat and source = text and reduce = mean and method = contribution"
    code, out, err = run("query", "--where", where, "--top", "7", *place)
    first = rows(out)
    cursor = err.split("--after ")[1].strip()
    assert code == 0 and len(first) == 7 and {r["concept"] for r in first} == {"dog", "cat"}
    _, out, _ = run("query", "--where", where, "--top", "7", "--after", cursor, "--json", *place)
    second = json.loads(out)
    whole = rows(run("query", "--where", where, "--top", "14", *place)[1])
    assert first + second["rows"] == whole and second["next"]
    best = rows(run("query", "--where", where, "--each", "--top", "999", *place)[1])
    assert len(best) == len({(r["layer"], r["neuron"]) for r in best}) == 128
    _, out, _ = run("count", "--where", where, "--percentile", ">=75", *place)
    assert [r["passing"] for r in rows(out)] == [32 + 1, 32 + 1] and {r["neurons"] for r in rows(out)} == {128}
    assert "count(*) AS passing" in run("count", "--where", where, "--explain", *place)[1]
    for command, code in (("query", 1), ("count", 1)):
        asked = (command, "--where", "concept = dog and score > 1e9", *place)
        assert run(*asked)[0] == 0 and run(*asked, "--fail-empty")[0] == code
    none = [r["passing"] for r in rows(run("count", "--concept", "dog", "--score", ">1e9", *place)[1])]
    assert none == [0] and run("count", "--concept", "dog", "--score", ">0", "--fail-empty", *place)[0] == 0


def test_runs_are_shown_compared_and_removed(own_atlas: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ("--atlas", own_atlas)
    (listed,) = rows(run("runs", *place)[1])
    assert run("runs", "ls", *place)[1] == run("runs", *place)[1]
    shown = {r["fact"]: r["value"] for r in rows(run("runs", "show", listed["run"], *place)[1])}
    assert shown["kind"] == "ingest" and shown["job.seed"] == "0"
    whole = json.loads(run("runs", "show", listed["run"], "--json", *place)[1])["facts"]["run"]
    assert whole["job"]["methods"] and whole["environment"]["versions"]["torch"]
    code, out, err = run("runs", "diff", listed["run"], listed["run"], *place)
    assert (code, out) == (0, "") and "do not differ" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    code, _, err = run("runs", "rm", listed["run"], *place)
    assert code == 1 and "nothing was removed" in err and len(rows(run("runs", *place)[1])) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, _, err = run("runs", "rm", listed["run"], *place)
    assert code == 2 and "--yes removes without asking" in err
    code, out, err = run("runs", "rm", listed["run"], "--yes", *place)
    assert code == 0 and out.startswith(f"removed {listed['run']}: ") and "db compact" in err
    assert run("runs", *place)[1] == "" and run("db", "check", *place)[0] == 0
    assert run("db", "compact", *place)[0] == 0 and run("db", "check", *place)[0] == 0


def test_sql_in_every_form(stored_atlas: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ("--atlas", stored_atlas)
    statement = "SELECT layer, count(*) AS n FROM scores GROUP BY layer ORDER BY layer"
    assert [r["layer"] for r in rows(run("sql", statement, *place)[1])] == [0, 1]
    code, out, err = run("sql", statement, "--limit", "1", "--json", *place)
    assert code == 0 and json.loads(out)["truncated"] is True and "the first 1 rows; there are more" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO(statement))
    assert len(rows(run("sql", "-", *place)[1])) == 2
    code, out, err = run(
        "sql", "SELECT count(*) FROM range(1000000000000) t(i) WHERE i % 7 = 1", "--timeout", "0.2", *place
    )
    assert (code, out) == (1, "") and "--timeout gives it more" in err
