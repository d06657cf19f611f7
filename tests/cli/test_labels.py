"""`atlas labels` and `atlas geometry` as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def labelled(run: Run, own_atlas: Path, llava_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEURON_ATLAS", str(own_atlas))
    asked = ["--model", llava_folder, "--dataset", "scenes", "--concepts", "cat,dog", "--per-concept", 1]
    code, _, err = run("ingest", *asked, "--methods", "miner,lape", "--param", "miner.attention=true")
    assert code == 0, err
    return own_atlas


def test_labels_are_made_listed_and_shown(run: Run, labelled: Path) -> None:
    code, out, err = run("labels", "make", "--strategy", "LU_MA", "--ratio", "0.1", "--weights", "uniform")
    assert code == 0 and err.startswith("using runs=")
    made = out.strip()
    assert run("labels", "make", "--strategy", "LU_MA", "--ratio", "0.1", "--weights", "uniform")[1].strip() == made
    rows = [json.loads(line) for line in run("labels", "ls")[1].splitlines()]
    mine = {row["label"]: row["neurons"] for row in rows if row["run"] == made[:8]}
    assert mine and sum(mine.values()) == 12
    label = max(mine, key=lambda name: mine[name])
    code, out, _ = run("labels", "show", made[:8], "--label", label, "--top", 2, "--json")
    shown = json.loads(out)["rows"]
    assert code == 0 and len(shown) == min(2, mine[label]) and {row["label"] for row in shown} == {label}
    assert len(shown[0]["tokens"]) == 5
    neuron = f"{shown[0]['layer']}/{shown[0]['neuron']}"
    [own] = [
        r for r in json.loads(run("labels", "show", "--neuron", neuron, "--json")[1])["rows"] if r["label"] == label
    ]
    assert own["run"] == made[:8] and own["neurons"] == mine[label] and own["score"] == shown[0]["score"]
    code, _, err = run("labels", "show", made[:8], "--neuron", neuron)
    assert code == 2 and "leave out the RUN" in err
    code, out, _ = run("labels", "show", made[:8], "--by-layer", "--csv")
    assert code == 0 and sum(int(line.split(",")[2]) for line in out.splitlines()[1:]) == 12
    assert run("db", "check")[0] == 0


def test_the_maps_over_all_concepts_answer_queries(run: Run, labelled: Path) -> None:
    code, out, err = run("query", "--concept", "*", "--method", "miner", "--source", "image", "--top", 3, "--json")
    assert code == 0, err
    assert [row["rank"] for row in json.loads(out)["rows"]] == [1, 2, 3]
    assert run("query", "--concept", "*", "--method", "lape.role", "--source", "text", "--top", 1)[0] == 0


def test_geometry_with_and_without_labelled_neurons(run: Run, labelled: Path, llava_folder: Path) -> None:
    made = run("labels", "make", "--ratio", "0.2")[1].strip()
    asked = ["geometry", "--model", llava_folder, "--concepts", "dog", "--per-concept", 2, "--projections", "pca"]
    code, out, err = run(*asked, "--labels", f"{made[:8]}:image", "--only", "attention_share", "--json", "-d", "scenes")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert {row["condition"] for row in rows} == {"before", "edit", "random"}
    assert {row["name"] for row in rows} == {"attention_share"}
    code, _, err = run(*asked, "--labels", f"{made[:8]}:imagine", "-d", "scenes")
    assert code == 2 and "did you mean 'image'" in err
    code, _, err = run(*asked, "--edit", "a", "--labels", "b", "-d", "scenes")
    assert code == 2 and "one of --edit, --labels and --of" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labels", "make", "--rule", "minor"], "no label rule called 'minor'"),
        (["labels", "make", "--ratio", "2"], "the ratio is a share of all neurons"),
        (["labels", "make", "--weights", "1,1"], "give five numbers for prob,mean,max,attn_k,attn_q"),
        (["labels", "make", "--rule", "lape", "--split", "prompt"], "no parameter of lape called 'split'"),
        (["labels", "make", "--runs", "zz"], "no run with miner maps begins with 'zz'"),
        (["labels", "show", "zz"], "no run with labels called 'zz'"),
    ],
)
def test_bad_input_is_a_line_and_exit_code_2(run: Run, labelled: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2 and message in err and not out and "Traceback" not in err
