"""`atlas export`, `atlas import` and bundles in `atlas sql`: rows on stdout, messages on stderr, exit codes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def bundle(run: Any, stored_atlas: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    assert run("export", folder, "--atlas", stored_atlas)[0] == 0
    return folder


def test_a_bundle_goes_out_and_comes_in(run: Any, stored_atlas: Path, tmp_path: Path) -> None:
    folder, new = tmp_path / "bundle", tmp_path / "new.atlas"
    code, out, err = run("export", folder, "--atlas", stored_atlas, "--csv")
    assert code == 0
    (row,) = read(out)
    assert (row["kind"], row["model"], row["dataset"]) == ("ingest", "random-llava", "scenes")
    assert int(row["scores"]) == 128 * int(row["maps"]) > 0
    assert f"atlas import {folder}" in err and "MB" in err
    code, out, err = run("import", folder, "--atlas", new, "--csv")
    assert (code, err) == (0, "")
    assert read(out) == [{"kind": "run", "name": row["name"], "outcome": "stored", "note": ""}]
    assert read(run("import", folder, "--atlas", new, "--csv")[1])[0]["outcome"] == "already there"
    assert run("db", "check", "--atlas", new)[:2] == (0, "")
    question = ("query", "--concept", "dog", "--method", "contribution", "--source", "image", "--format", "csv")
    assert run(*question, "--atlas", new) == run(*question, "--atlas", stored_atlas)


def test_what_is_chosen_is_all_that_goes_out(run: Any, stored_atlas: Path, tmp_path: Path) -> None:
    options = ("--concept", "dog,cat", "--method", "contribution", "--source", "text", "--reduce", "mean", "--no-edits")
    code, out, _ = run("export", tmp_path / "part", *options, "--atlas", stored_atlas, "--json")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert (row["kind"], row["maps"]) == ("extract", 2)
    assert run("import", tmp_path / "part", "--atlas", tmp_path / "x.atlas")[0] == 0
    code, out, _ = run("runs", "--atlas", tmp_path / "x.atlas", "--csv")
    assert (code, read(out)[0]["kind"], read(out)[0]["maps"]) == (0, "extract", "2")
    code, out, _ = run("query", "--concept", "dog", "--top", "3", "--atlas", tmp_path / "x.atlas", "--csv")
    assert code == 0 and len(read(out)) == 3 and all(row["tokens"] for row in read(out))
    code, out, _ = run("runs", "show", row["name"], "--atlas", tmp_path / "x.atlas", "--json")
    assert code == 0 and json.loads(out)["facts"]["run"]["job"]["of"]["kind"] == "ingest"


def test_a_bundle_is_asked_where_it_lies(run: Any, stored_atlas: Path, bundle: Path) -> None:
    query = "SELECT c.name, method, source, max(score) AS best FROM maps JOIN scores USING (map_id)"
    query += " JOIN concepts c USING (concept_id) GROUP BY ALL ORDER BY ALL"
    asked = run("sql", "--bundle", bundle, query, "--csv")
    assert asked[0] == 0 and len(read(asked[1])) > 5
    assert asked == run("sql", query, "--csv", "--atlas", stored_atlas)


def test_a_changed_bundle_is_refused_with_exit_code_4(run: Any, bundle: Path, tmp_path: Path) -> None:
    file = next(bundle.glob("runs/*/scores.parquet"))
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    code, out, err = run("import", bundle, "--atlas", tmp_path / "x.atlas")
    assert (code, out) == (4, "")
    assert err.startswith("atlas: ") and "does not match bundle.json (sha256)" in err and err.count("\n") == 1


def test_what_is_refused_is_a_row_and_exit_code_4(run: Any, own_atlas: Path, bundle: Path) -> None:
    """A run that is there with another outcome, as of another machine."""
    file = next(own_atlas.glob("runs/*/manifest.json"))
    said = json.loads(file.read_text())
    said["run"]["outcome"]["seconds"] = -1
    file.write_text(json.dumps(said))
    code, out, err = run("import", bundle, "--atlas", own_atlas, "--csv")
    assert code == 4
    (row,) = read(out)
    assert row["outcome"] == "refused" and "other content" in row["note"]
    assert "1 run of the bundle was refused" in err


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (("import", "{tmp}/none", "--atlas", "{tmp}/x.atlas"), 2, "there is no bundle at"),
        (("export", "{tmp}", "--atlas", "{atlas}"), 2, "already exists"),
        (("export", "{tmp}/b", "--concept", "dgo", "--atlas", "{atlas}"), 2, "did you mean 'dog'"),
        (("export", "{tmp}/b", "--atlas", "{tmp}/none.atlas"), 3, "there is no atlas at"),
        (("sql", "--bundle", "{tmp}/none", "SELECT 1"), 2, "there is no bundle at"),
        (("push", "nobody", "--atlas", "{atlas}"), 2, "write OWNER/NAME"),
        (("push", "ada/dogs", "--atlas", "{atlas}"), 2, "HF_HUB_OFFLINE is set"),
        (("pull", "ada/dogs", "--atlas", "{tmp}/x.atlas"), 2, "HF_HUB_OFFLINE is set"),
    ],
)
def test_a_wrong_request_says_so(
    run: Any, stored_atlas: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, match: str
) -> None:
    found = run(*(a.format(tmp=tmp_path, atlas=stored_atlas) for a in arguments))
    assert (found[0], found[1]) == (code, "") and match in found[2]
    assert list(tmp_path.iterdir()) == []
