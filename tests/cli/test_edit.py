"""`atlas edit` and `atlas evaluate NAME` as a person types them: what they print, and what they say to type instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scene_coco import write_coco

from atlas import Atlas
from cli.main import main
from ingest.requests.solve import Solve

Run = Callable[..., tuple[int, str, str]]


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def reported(err: str) -> dict[str, str]:
    """What a solver reports, by name; what was filled in is told otherwise."""
    return dict(line.split(": ") for line in err.splitlines() if not line.startswith("using "))


@pytest.fixture(scope="module")
def edited(stored_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """no-dog, half-cat, and quiet with deltas; tests that change them take `edits`."""
    path = tmp_path_factory.mktemp("atlases") / "edited.atlas"
    shutil.copytree(stored_atlas, path)
    best = ["--source", "text", "--reduce", "mean", "--top", "20", "--atlas", str(path)]
    for name, concept, how in (
        ("no-dog", "dog", ["--set", "0"]),
        ("half-cat", "cat", ["--scale", "0.5", "--note", "half of it"]),
        ("quiet", "dog", ["--write-noise", "0.1", "--seed", "3"]),
    ):
        assert main(["edit", "create", name, "--concept", concept, *how, *best]) == 0
    return path


@pytest.fixture
def edits(edited: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(edited, tmp_path / "edits.atlas"))


def test_every_kind_of_change_is_made_and_shown(own_atlas: Path, run: Run) -> None:
    atlas = ("--atlas", own_atlas)
    dog = ("--concept", "dog", "--source", "text", "--top", "3")
    for name, how in {
        "shift": ("--shift", "0.5", "--where", "role=image;phase=prefill"),
        "mean": ("--mean",),
        "min": ("--min",),
        "noise": ("--noise", "0.25", "--seed", "7"),
        "rest": ("--scale", "0", "--complement"),
    }.items():
        code, out, err = run("edit", "create", name, *dog, *how, *atlas)
        count = 125 if name == "rest" else 3
        assert (code, out.split(" of ")[0]) == (0, f"{name}@1: {count} neurons")
        assert "using method=contribution" in err
    shown = {}
    for name in ("shift", "mean", "min", "noise", "rest"):
        _, out, err = run("edit", "show", name, "--json", *atlas)
        shown[name] = json.loads(out)
        assert f"{name}@1 of" in err and "concept dog, tap product" in err
    rows = {name: said["rows"] for name, said in shown.items()}
    assert {(r["gain"], r["bias"]) for r in rows["rest"]} == {(0, 0)} and len(rows["rest"]) == 125
    assert {(r["gain"], r["where"]) for r in rows["shift"]} == {(1, "role=image;phase=prefill")}
    assert all(low["bias"] < mean["bias"] for low, mean in zip(rows["min"], rows["mean"], strict=True))
    assert {r["noise"] for r in rows["noise"]} == {0.25} and shown["noise"]["seed"] == 7
    assert all(r["delta"] is None for r in rows["rest"])
    assert shown["rest"]["provenance"]["set"] == "complement"
    assert run("db", "check", *atlas)[0] == 0


def test_neurons_of_other_edits_and_of_labels(edits: Path, run: Run) -> None:
    atlas = ("--atlas", edits)
    sets = {e: set(Atlas.open(edits).edit(e).neurons) for e in ("no-dog", "half-cat")}
    for name, of, wanted in (
        ("both", "no-dog & half-cat", sets["no-dog"] & sets["half-cat"]),
        ("dog-only", "no-dog - half-cat", sets["no-dog"] - sets["half-cat"]),
        ("any", "no-dog | half-cat", sets["no-dog"] | sets["half-cat"]),
    ):
        code, out, _ = run("edit", "create", name, "--of", of, "--set", "0", *atlas)
        assert (code, out.split(" of ")[0]) == (0, f"{name}@1: {len(wanted)} neurons")
        assert set(Atlas.open(edits).edit(name).neurons) == wanted


def test_edits_are_listed_compared_composed_and_removed(edits: Path, run: Run) -> None:
    atlas = ("--atlas", edits)
    rows = lines(run("edit", "ls", *atlas)[1])
    assert [(r["name"], r["version"]) for r in rows] == [("half-cat", 1), ("no-dog", 1), ("quiet", 1)]
    code, out, err = run("edit", "diff", "no-dog", "half-cat", *atlas)
    first, second = (set(Atlas.open(edits).edit(e).neurons) for e in ("no-dog", "half-cat"))
    assert code == 0 and len(lines(out)) == len(first | second)
    assert {(r["first"], r["second"]) for r in lines(out)} == {("0", None), (None, "0.5 x"), ("0", "0.5 x")}
    assert f"no-dog@1: 20 neurons, half-cat@1: 20 neurons, in both: {len(first & second)}" in err
    assert run("edit", "diff", "no-dog", "no-dog", *atlas)[1] == ""
    compose = ("edit", "compose", "both", "no-dog", "half-cat", *atlas)
    code, out, err = run(*compose)
    assert (code, out) == (2, "") and "--conflict priority or --conflict sequence" in err
    code, out, _ = run(*compose, "--conflict", "sequence", "--note", "of two")
    assert (code, out.split(" of ")[0]) == (0, f"both@1: {len(first | second)} neurons")
    gains = {r["gain"] for r in json.loads(run("edit", "show", "both", "--json", *atlas)[1])["rows"]}
    assert gains == {0.0, 0.5}
    assert run("edit", "rm", "no-dog", *atlas)[1] == "removed no-dog@1\n"
    assert run("edit", "show", "no-dog", *atlas)[0] == 2
    assert run("edit", "show", "both", *atlas)[0] == 0 and run("db", "check", *atlas)[0] == 0


def test_an_edit_is_handed_to_another_atlas(edits: Path, tmp_path: Path, run: Run) -> None:
    file, other = tmp_path / "quiet.safetensors", tmp_path / "other.atlas"
    assert run("edit", "export", "quiet", file, "--atlas", edits) == (0, f"{file}\n", "")
    assert run("init", "--atlas", other)[0] == 0
    code, out, _ = run("edit", "import", file, "--name", "theirs", "--atlas", other)
    assert code == 0 and out.startswith("theirs@1: 20 neurons of ")
    mine = json.loads(run("edit", "show", "quiet", "--json", "--atlas", edits)[1])
    theirs = json.loads(run("edit", "show", "theirs", "--json", "--atlas", other)[1])
    assert mine["rows"] == theirs["rows"] and theirs["provenance"]["imported"] == "quiet@1"
    assert run("db", "check", "--atlas", other)[0] == 0
    code, _, err = run("edit", "export", "no-dog", file, "--atlas", edits)
    assert code == 2 and "is there already; choose another name or remove it" in err
    file.write_bytes(file.read_bytes()[:-1])
    code, _, err = run("edit", "import", file, "--atlas", other)
    assert code == 4 and "is damaged" in err and "Traceback" not in err


SOLVE = ["edit", "solve", "x", "--from", "dog", "--to", "cat"]
SMALL = ["--model", "MODEL", "--per-concept", "1", "--sources", "text", "--no-progress"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", "create", "x", "--set", "0"], "choose neurons by one of --concept dog, --labels RUN:LABEL and --of"),
        (["edit", "create", "x", "--concept", "dog", "--of", "no-dog", "--set", "0"], "by one of --concept dog"),
        (["edit", "create", "x", "--of", "no-dog", "--top", "3", "--set", "0"], "give --concept"),
        (["edit", "create", "x", "--of", "no-dog", "--source", "text", "--set", "0"], "give --concept"),
        (
            ["edit", "create", "x", "--of", "no-dgo", "--set", "0"],
            "no selection or edit called 'no-dgo'; did you mean 'no-dog'?",
        ),
        (
            ["edit", "create", "x", "--of", "no-dog quiet", "--set", "0"],
            "not a set of neurons; write for example 'dog & cat'",
        ),
        (["edit", "create", "x", "--labels", "ffff:image", "--set", "0"], "no run with labels called 'ffff'"),
        (["edit", "create", "x", "--concept", "dog", "--set", "0", "--mean"], "with exactly one of --set, --scale"),
        (
            ["edit", "create", "x", "--concept", "dog", "--set", "nan"],
            "--set=nan is out of range; give a finite number",
        ),
        (
            ["edit", "create", "x", "--concept", "dog", "--noise", "-1"],
            "--noise=-1 is out of range; give a number, 0 or more",
        ),
        (
            ["edit", "create", "x", "--concept", "dog", "--set", "0", "--where", "role=dog"],
            "no token role called 'dog'",
        ),
        (["edit", "create", "x", "--concept", "dog", "--set", "0", "--where", "x"], "write role=image,text, position="),
        (["edit", "create", "x", "--concept", "dog", "--layers", "9", "--set", "0"], "no layer 9; "),
        (
            ["edit", "create", "x", "--concept", "dog", "--select", "z:1000000", "--set", "0"],
            "no neurons; loosen it",
        ),
        (["edit", "create", "x", "--concept", "dog", "--set", "0", "--top", "0"], "--top"),
        (["edit", "show", "no-dog@2"], "no edit called 'no-dog@2'; did you mean 'no-dog@1'?"),
        (["edit", "show", "no-dog@x"], "write a name, or name@version, for example no-dog@1"),
        (["edit", "diff", "no-dog", "no-cat"], "no edit called 'no-cat'"),
        (["edit", "compose", "x", "no-dog"], "compose two edits or more: atlas edit compose no-pets no-dog no-cat"),
        (["edit", "compose", "x", "no-dog", "quiet", "--conflict", "last"], "there are: error, priority, sequence"),
        (["edit", "rm", "no-dgo"], "no edit called 'no-dgo'; did you mean 'no-dog'?"),
        (["edit", "export", "no-dgo", "x.safetensors"], "no edit called 'no-dgo'"),
        (["edit", "import", "none.safetensors"], "there is no file none.safetensors; `atlas edit export NAME FILE`"),
        (["edit", "apply", "no-dgo", "--prompt", "what"], "no edit called 'no-dgo'"),
        (["edit", "apply", "no-dog", "--prompt", "what", "--model", "tiny-llava"], "not for these weights"),
        (["edit", "solve", "x", "--from", " "], "empty; write --from dog --to cat, or --from dog alone"),
        (["edit", "solve", "x", "--from", "dog", "--to", "Dog"], "'dog' would become itself; give another --to"),
        (["edit", "solve", "a/b", "--from", "dog"], "'a/b' cannot name an edit"),
        ([*SOLVE, "--solver", "word_swop"], "no solver called 'word_swop'; "),
        ([*SOLVE, "--param", "lrr=1"], "no parameter of word_swap called 'lrr'; "),
        ([*SOLVE, "--param", "lr=fast"], "lr='fast' is not a float; the default is 0.005"),
        ([*SOLVE, "--param", "epochs=0"], "epochs at least 1"),
        ([*SOLVE, "--image", "scenes:held_out/0"], "--image needs the question about it: --prompt 'what is this?'"),
        ([*SOLVE, "--prompt", "what", "--tasks", "caption"], "--prompt is one question; --dataset, --tasks"),
        ([*SOLVE, "--of", "no-dog", "--top", "3"], "give --concept"),
        ([*SOLVE, "--dataset", "sceens"], "did you mean 'scenes'?"),
        ([*SOLVE, "--tasks", "capton", *SMALL], "no task called 'capton'; there are: context_does"),
        ([*SOLVE, *SMALL], "none of 3 answers says 'dog'; choose other --concepts, --tasks or --sources"),
        (
            [*SOLVE, "--tasks", "context_name", *SMALL],
            "'dog' is already absent: the model says it in none of its 1 answers",
        ),
        (
            [*SOLVE, "--solver", "minimal_norm", "--to-concept", "zebar", "--tasks", "context_name", *SMALL],
            "'dog' is al",
        ),
        ([*SOLVE, "--prompt", "what is this?", "--model", "MODEL"], ", without 'dog'; give a --from that it says"),
        (["evaluate", "no-dog", "--metrics", "rogue_l"], "no metric called 'rogue_l'; "),
        (["evaluate", "no-dog", "--against", "after"], "--against is references or before, not 'after'"),
        (["evaluate", "no-dog", "--metric-option", "stemmer=1"], "needs a metric before a dot, as in rouge_l.stemmer"),
        (["evaluate", "no-dog", "--top", "3"], "--reduce, --target and --doses choose neurons for --method"),
        (["evaluate", "no-dog", "--method", "activation"], "name an edit, or a --method"),
        (
            ["evaluate", "no-dog", "--concepts", "bee", "--seeds", "0"],
            "asks about 'dog'; give --concepts that include it",
        ),
        (["evaluate", "no-dog", "--model", "tiny-llava"], "not for these weights"),
    ],
)
def test_errors_are_one_line_that_says_what_to_type(
    arguments: list[str], message: str, edited: Path, llava_folder: Path, run: Run
) -> None:
    arguments = [str(llava_folder) if a == "MODEL" else a for a in arguments]
    code, out, err = run(*arguments, "--atlas", edited)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1] and err.splitlines()[-1].startswith("atlas: ")
    assert "Traceback" not in err and "internal error" not in err
    assert len(list((edited / "edits").glob("*.json"))) == 3


def test_a_picture_that_is_not_there_is_named(edits: Path, llava_folder: Path, run: Run) -> None:
    for command in (["edit", "apply", "no-dog"], [*SOLVE, "--model", str(llava_folder)]):
        code, out, err = run(*command, "--image", "none.png", "--prompt", "what", "--atlas", edits)
        assert (code, out) == (1, "") and "there is no picture file none.png; give a file, or DATASET:POINTER" in err


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with maps of the embedded model."""
    path = tmp_path_factory.mktemp("atlases") / "talking.atlas"
    assert main(["init", "--atlas", str(path)]) == 0
    job = "--methods contribution --concepts dog,cat --sources image --tasks caption --per-concept 2 --no-progress"
    assert main(["ingest", *job.split(), "--atlas", str(path)]) == 0
    return path


EVALUATE = ["--concepts", "dog,cat", "--per-concept", "2", "--sources", "image", "--tasks", "caption"]


def test_a_swap_is_solved_measured_and_applied(talking: Path, run: Run) -> None:
    solve = ("--from", "dog", "--to", "cat", "--tasks", "caption", "--sources", "image", "--per-concept", "2")
    solve = (*solve, "--keep", "2", "--param", "lr=0.02", "--no-progress", "--atlas", talking)
    code, out, err = run("edit", "solve", "swap", *solve, "--note", "dogs are cats")
    assert code == 0 and out.startswith("swap@1: ") and out.endswith(" neurons of tiny-llava\n")
    said = reported(err)
    assert float(said["worst_after"]) > 0.9 > float(said["worst_before"]) and "losses" not in said
    # the neurons of a map, and those of another edit
    code, out, err = run("edit", "solve", "mapped", *solve, "--method", "contribution", "--top", "7")
    assert code == 0 and out.startswith("mapped@1: 7 neurons") and "using source=image" not in err
    code, out, _ = run("edit", "solve", "again", *solve, "--of", "mapped", "--param", "epochs=1")
    assert code == 0 and out.startswith("again@1: 7 neurons")
    shown = {
        name: json.loads(run("edit", "show", name, "--json", "--atlas", talking)[1]) for name in ("swap", "mapped")
    }
    assert shown["swap"]["note"] == "dogs are cats" and shown["swap"]["concept"] == "dog"
    assert shown["swap"]["provenance"]["solver"]["swap"] == {"said": "dog", "wanted": "cat"}
    assert shown["mapped"]["provenance"]["of"]["maps"][0]["method"] == "contribution"
    code, out, err = run("evaluate", "swap", *EVALUATE, "--seeds", "1", "--metrics", "exact", "--atlas", talking)
    value = {
        (r["subset"], r["metric"], r["condition"]): r["value"] for r in lines(out) if r["task"] in ("*", "caption")
    }
    assert code == 0 and value["concept", "success", "before"] == 0 and value["concept", "said", "before"] == 1
    assert value["concept", "success", "edit"] == value["concept", "whole_success", "edit"] == 1
    assert value["concept", "success", "random"] == 0 and value["concept", "exact", "edit"] == 0
    assert ("others", "whole_unchanged", "edit") in value and ("others", "exact", "before") in value
    code, out, err = run("evaluate", "swap", *EVALUATE, "--seeds", "1", "--metrics", "exact", "--atlas", talking, "-f",
                         "table")  # fmt: skip
    assert code == 0 and "was done before" in err
    assert {"success", "whole_success", "whole_unchanged", "exact"} <= set(out.split())


def test_a_swap_by_one_picture_is_solved_and_measured(talking: Path, run: Run) -> None:
    asked = ("--image", "scenes:held_out/0", "--prompt", "describe the picture")
    solve = ("--from", "dog", "--to", "cat", *asked, "--param", "lr=0.02", "--no-progress", "--atlas", talking)
    code, out, err = run("edit", "solve", "one", *solve)
    assert code == 0 and out.startswith("one@1: ") and "worst_after: 0.9" in err
    shown = json.loads(run("edit", "show", "one", "--json", "--atlas", talking)[1])
    assert shown["provenance"]["asked"] == {
        "prompt": "describe the picture",
        "pictures": ["scenes:held_out/0"],
        "concept": "dog",
    }
    code, out, err = run("evaluate", "one", *EVALUATE, "--seeds", "1", "--metrics", "none", "--atlas", talking)
    value = {
        (r["subset"], r["metric"], r["condition"]): r["value"] for r in lines(out) if r["task"] in ("*", "caption")
    }
    assert code == 0 and "random control" not in err
    assert value["concept", "said", "before"] == 1 and value["concept", "success", "before"] == 0
    assert {c for s, m, c in value if (s, m) == ("concept", "success")} == {"before", "edit", "random"}
    assert value["others", "whole_unchanged", "before"] == 1
    code, out, _ = run("edit", "apply", "one", *asked, "--atlas", talking)
    before, after = (row["answer"] for row in lines(out))
    assert code == 0 and "dog" in before.split() and after == before.replace("dog", "cat")


def test_a_picture_that_is_asked_about_is_found_again_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dog.png").write_bytes(b"")
    question = Solve("x", word="dog", prompt="what?", image=["dog.png", "scenes:held_out/0"]).question()
    assert question is not None
    pictures = [str(tmp_path / "dog.png"), "scenes:held_out/0"]
    assert question.plain() == {"prompt": "what?", "pictures": pictures, "concept": "dog"}
    assert Solve("x", word="dog", tasks=["caption"]).question() is None


def test_a_word_is_made_to_disappear(talking: Path, run: Run) -> None:
    solve = ("--from", "dog", "--tasks", "caption", "--sources", "image", "--per-concept", "2", "--keep", "2")
    code, out, err = run("edit", "solve", "mute", *solve, "--param", "lr=0.02", "--no-progress", "--atlas", talking)
    assert code == 0 and out.startswith("mute@1: ")
    said = reported(err)
    assert float(said["worst_before"]) > 0.9 and float(said["worst_after"]) < 0.1


def test_another_dataset_or_other_options_are_taken_as_they_are_given(talking: Path, tmp_path: Path, run: Run) -> None:
    """The dataset and the options of what was solved are only what is taken where none are given."""
    from ingest.datasets import scenes

    write_coco(scenes.build(), tmp_path / "coco", 30, split="held_out")
    solve = ("--from", "dog", "--to", "cat", "--tasks", "caption", "--sources", "image", "--per-concept", "1")
    more = ("--option", "seed=3", "--keep", "0", "--param", "epochs=1", "--no-progress", "--atlas", talking)
    assert run("edit", "solve", "seeded", *solve, *more)[0] == 0
    from ingest.evaluate.from_edit import own_examples

    edit = Atlas.open(talking).edit("seeded").data
    assert own_examples(edit)["options"] == {"seed": "3"} and own_examples(edit)["tasks"][0] == "caption"
    few = ("--concepts", "dog", "--per-concept", "1", "--seeds", "0", "--metrics", "none", "--atlas", talking)
    assert run("evaluate", "seeded", *few, "--tasks", "caption")[0] == 0
    folder = f"coco:{tmp_path / 'coco'}"
    assert run("evaluate", "seeded", *few, "--dataset", folder)[0] == 0
    runs = {r["dataset"] for r in lines(run("runs", "--atlas", talking)[1]) if r["kind"] == "evaluate"}
    assert {"scenes", "coco"} <= runs
