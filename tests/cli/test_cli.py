"""The command line as a person and as a program meet it: output forms, exit codes, one-line errors."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.main import get_command

from atlas.store import database
from cli.main import make_app

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[2]
ROOT_COMMAND: Any = get_command(make_app())


def commands() -> list[list[str]]:
    """Every command and sub-command."""

    def walk(command: Any, path: list[str]) -> list[list[str]]:
        inner = getattr(command, "commands", {})
        return [path] + [p for name, sub in inner.items() for p in walk(sub, [*path, name])]

    return walk(ROOT_COMMAND, [])


def found(path: list[str]) -> Any:
    """The command of a path."""
    command: Any = ROOT_COMMAND
    for word in path:
        command = command.commands[word]
    return command


def followed(words: list[str]) -> list[str]:
    """The words at the beginning of a command line that name a command."""
    command: Any = ROOT_COMMAND
    taken: list[str] = []
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
        taken.append(word)
    return taken


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(path: list[str], run: Run) -> None:
    code, out, err = run(*path, "-h")
    assert code == 0 and err == ""
    command = found(path)
    if getattr(command, "commands", None):
        assert "Commands:" in out
    if not getattr(command, "commands", None) or command.invoke_without_command:
        assert f"Example: atlas {' '.join(path)}".strip() in " ".join(out.split())


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_example_is_taken_by_its_own_command(path: list[str]) -> None:
    for example in re.findall(r"Example: atlas (.*)", found(path).help or ""):
        line = shlex.split(example)
        assert line[: len(path)] == path or not path
        taken = followed(line)
        found(taken).make_context("atlas", line[len(taken) :])  # raises for what is not an option or value


def quoted() -> list[tuple[str, str]]:
    """File and command of every `atlas ...` in backquotes that the program may print, with {} for what is filled in."""
    lines = []
    for package in ("atlas", "ingest", "cli"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    text = "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    text = node.value
                else:
                    continue
                lines += [(str(file.relative_to(ROOT)), line) for line in re.findall(r"`atlas ([a-z][^`]*)`", text)]
    return sorted(set(lines))


def test_every_command_that_a_text_quotes_exists() -> None:
    lines = quoted()
    assert len(lines) > 60
    for file, line in lines:
        words = line.replace("\n", " ").split()
        taken = followed(words)
        command = found(taken)
        assert taken, (file, line)
        rest = words[len(taken) :]
        below = getattr(command, "commands", None)
        assert not below or not rest or rest[0].startswith(("-", "{")) or "|" in rest[0], (file, line)
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        if "..." not in words and not below:
            given = {word.partition("=")[0] for word in rest if word.startswith("-") and len(word) > 1}
            assert given <= options | {"--help", "--quiet", "--debug", "-q", "-h"}, (file, line)


def test_query_in_every_format(stored_atlas: Path, run: Run) -> None:
    question = ("query", "--concept", "dog", "--source", "text", "--top", "4", "--atlas", stored_atlas)
    _, out, err = run(*question)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [r["rank"] for r in rows] == [1, 2, 3, 4]
    assert "using method=contribution (also stored:" in err
    _, out, _ = run(*question, "--json")
    whole = json.loads(out)
    assert whole["schema_version"] == 2 and whole["rows"] == rows
    assert whole["provenance"]["maps"][0]["concept"] == "dog"
    for flag, separator in (("--csv", ","), ("--format=tsv", "\t")):
        _, out, _ = run(*question, flag)
        table = list(csv.DictReader(io.StringIO(out), delimiter=separator))
        assert [int(r["neuron"]) for r in table] == [r["neuron"] for r in rows]
    _, out, _ = run(*question, "--format", "table")
    lines = out.splitlines()
    assert lines[0].split() == ["layer", "neuron", "score", "rank", "percentile", "tokens", "also_found_by"]
    assert len(lines) == 6
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, question), "-f", "parquet"], capture_output=True, check=True
    )
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 4


def test_a_neuron_in_every_format(stored_atlas: Path, run: Run) -> None:
    """Its concepts are the rows; a table and JSON have the two other tables too, and what has one says so."""
    question = ("neuron", "1/5", "--method", "contribution", "--source", "text", "--atlas", stored_atlas)
    whole = json.loads(run(*question, "--json")[1])
    assert whole["facts"] == {"neuron": "1/5", "model": whole["provenance"]["model"]}
    assert {r["concept"] for r in whole["rows"]} == {"cat", "dog"} and len(whole["tokens"]) == 4 and whole["exemplars"]
    assert json.loads(run(*question)[1]) == whole  # a pipe gets one line
    _, out, err = run(*question, "--csv")
    assert [r["concept"] for r in csv.DictReader(io.StringIO(out))] == [r["concept"] for r in whole["rows"]]
    assert "csv has the rows of one table; --json has them all: tokens, concepts, exemplars" in err
    _, out, err = run(*question, "--format", "table")
    parts = re.split(r"\n\n(tokens|concepts|exemplars)\n", out)
    assert parts[0].startswith("neuron 1/5 of ") and parts[1::2] == ["tokens", "concepts", "exemplars"]
    assert [len(part.strip().splitlines()) - 2 for part in parts[2::2]] == [
        len(whole[name]) for name in ("tokens", "rows", "exemplars")
    ]
    assert "has the rows of one table" not in err


def test_quiet_explain_and_fail_empty(stored_atlas: Path, run: Run) -> None:
    question = ("query", "--concept", "dog", "--atlas", stored_atlas)
    assert run("--quiet", *question)[2] == ""
    code, out, _ = run(*question, "--explain")
    assert code == 0 and out.startswith("WITH chosen AS") and "$maps" in out
    assert run(*question, "--token", "x y") == (0, "", run(*question, "--token", "x y")[2])
    assert run(*question, "--token", "x y", "--fail-empty")[0] == 1
    assert run("query", "--concept", "dog", "--token", "x y", "-f", "table", "-a", stored_atlas)[1] == "(no rows)\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["query", "--concept", "dgo"], 2, "no stored concept called 'dgo'; did you mean 'dog'? (`atlas concepts`"),
        (["query", "--concept", "dog", "--method", "abaltion"], 2, "did you mean 'ablation'?"),
        (["query", "--concept", "dog", "--layers", "x"], 2, "'x' is not a set of layers; write for example 3 or 8-15"),
        (["query", "--concept", "dog", "--layers", "9,12-15"], 2, "random-llava has layers 0-1"),
        (["query", "--concept", "dog", "--label", "imgae"], 2, "no stored label called 'imgae'; there are none yet"),
        (["query", "--concept", "dog", "--percentile", ">=200"], 2, "percentile is a number from 0 to 100"),
        (["query", "--concept", "dog", "--format", "xml"], 2, "no format called 'xml'; there are: table, json"),
        (["query", "--concept", "dog", "--json", "--csv"], 2, "choose one output format"),
        (["query"], 2, "give --concept, or another condition: --token bark"),
        (["query", "--concept", "dog", "--agree", "2"], 2, "or --concept with --methods a,b"),
        (
            ["query", "--concept", "dog", "--select", "tops:3"],
            2,
            "no selection rule called 'tops'; did you mean 'top'?",
        ),
        (["query", "--concept", "dog", "--minus", "cat"], 2, "write --minus concept=cat"),
        (["query", "--concept", "dog", "--minus", "concept=cta"], 2, "no stored concept called 'cta'"),
        (["query", "--concept", "dog", "--methods", "activation"], 2, "two or more different --methods"),
        (
            ["query", "--supercategory", "animals"],
            2,
            "no stored supercategory called 'animals'; did you mean 'animal'?",
        ),
        (
            ["query", "--supercategory", "animal", "--methods", "a,b", "--layers", "1"],
            2,
            "only names of maps, --select",
        ),
        (
            ["query", "--concept", "dog", "--sort", "scroe"],
            2,
            "no field to sort by called 'scroe'; did you mean 'score'?",
        ),
        (["query", "--where", "concept = dog and"], 2, "expected a field, for example concept"),
        (["query", "--where", "concept = 'x*'"], 2, "no stored map matches"),
        (["query", "--concept", "dog", "--after", "x"], 2, "--after takes the cursor at the end of the previous page"),
        (["query", "--concept", "dog", "--rank", "40"], 2, "expected one of = != < <= > >= in after 'rank'"),
        (["query", "--concept", "dog", "--in", "cat"], 2, "no selection or edit called 'cat'"),
        (["select", "rm", "cat"], 2, "no selection called 'cat'; there are none yet (`atlas select ls`"),
        (["select", "save", "a/b", "--concept", "dog"], 2, "'a/b' cannot name"),
        (["select", "save", "a"], 2, "choose neurons by a question"),
        (["runs", "show", "zz"], 2, "no run called 'zz'; there are:"),
        (["runs", "rm", "zz", "--yes"], 2, "no run called 'zz'; there are:"),
        (["sql", "DELETE FROM maps"], 2, "only reads: a SELECT, not DELETE"),
        (["query", "--supercategory", "animal", "--select", "z:4", "--top", "3"], 2, "give --select or --top"),
        (["quary"], 2, "No such command 'quary'. Did you mean 'query'"),
        (["neuron", "7/7"], 2, "no neuron 7/7; "),
        (["neuron", "x"], 2, "'x' is not a neuron; write layer/index"),
        (["shared", "--concept", "dog", "--sources", "image"], 2, "two different --sources"),
        (["shared", "--concept", "dog", "--concepts", "all"], 2, "give one --concept; or --concepts all"),
        (["only"], 2, "give one --concept; or --concepts all"),
        (["only", "--concepts", "dog,dgo"], 2, "no stored concept called 'dgo'; did you mean 'dog'?"),
        (["only", "--concept", "dog", "--side", "target"], 2, "no stored target called 'image'"),
        (["layers", "--concept", "dog", "--sources", "image,text,audio"], 2, "give two --sources"),
        (["layers", "--concept", "dog", "--top", "3", "--select", "z:4"], 2, "--top N is --select top:N"),
        (["agreement", "--pairs", "--reference", "ablation"], 2, "leave out --reference"),
        (["shared", "--concept", "dog", "--sources", "image,audio"], 2, "source called 'audio'"),
        (["agreement", "--reference", "ablaton"], 2, "no stored method called 'ablaton'; did you mean 'ablation'?"),
        (["agreement", "--reference", "truth"], 2, "no stored method called 'truth'; there are: ablation"),
        (["agreement", "--concept", "zebra"], 2, "no stored concept called 'zebra'; there are"),
        (["agreement", "--source", "x"], 2, "no stored source called 'x'; there are: image, text"),
        (["agreement", "--pairs", "--source", "x"], 2, "no stored source called 'x'; there are: image, text"),
        (["agreement", "--pairs", "--dataset", "coco"], 2, "no stored dataset called 'coco'"),
        (["leaderboard", "--reference", "ablaton"], 2, "no stored method called 'ablaton'; did you mean 'ablation'?"),
        (["leaderboard", "--dataset", "coco"], 2, "no stored dataset called 'coco'"),
        (["edit", "show", "no-dgo"], 2, "no edit called 'no-dgo'; there are none yet (`atlas edit ls` lists all)"),
        (["edit", "create", "x", "--concept", "dog"], 2, "exactly one of --set, --scale"),
        (["edit", "create", "a/b", "--concept", "dog", "--set", "0"], 2, "'a/b' cannot name an edit"),
        (["evaluate"], 2, "name an edit, or a --method"),
        (["ingest", "--methods", "contribtion"], 2, "did you mean 'contribution'?"),
        (["ingest", "--dataset", "sceens"], 2, "did you mean 'scenes'?"),
        (["ingest", "--concepts", "dgo"], 2, "no concept called 'dgo'; did you mean 'dog'?"),
        (["ingest", "--dataset", "coco:/nowhere"], 2, "/nowhere"),
        (["ingest", "--model", "no/such-model"], 2, "cannot load the model 'no/such-model'"),
        (["ingest", "--param", "contribution.norm"], 2, "--param 'contribution.norm' is not KEY=VALUE"),
        (["ingest", "--concepts", ","], 2, "--concepts ',' names nothing"),
        (["ingest", "--param", "ablation.layers=1"], 2, "needs a method of this job"),
        (["ingest", "no-such-job.toml"], 2, "there is no job file no-such-job.toml"),
        (["ingest", "--bad-media", "hide"], 2, "--bad-media is skip or fail, not 'hide'"),
        (["ingest", "--device", "cuda:9", "--model", "MODEL"], 5, "no device 'cuda:9'; use --device cpu"),
        (["ingest", "--dtype", "float8", "--model", "MODEL"], 2, "no dtype called 'float8'"),
    ],
)
def test_errors_are_one_line_that_says_what_to_type(
    arguments: list[str], code: int, message: str, own_atlas: Path, llava_folder: Path, run: Run
) -> None:
    arguments = [str(llava_folder) if a == "MODEL" else a for a in arguments]
    found, out, err = run(*arguments, *([] if arguments == ["quary"] else ["--atlas", own_atlas]))
    assert found == code and out == ""
    assert message in err.splitlines()[-1] and err.splitlines()[-1].startswith("atlas: ")
    assert "Traceback" not in err


def test_a_traceback_only_with_debug(stored_atlas: Path, run: Run) -> None:
    assert "Traceback" in run("--debug", "query", "--concept", "dgo", "--atlas", stored_atlas)[2]


@pytest.mark.parametrize("damage", ["missing", "truncated", "not ours"])
def test_a_database_that_cannot_be_read(damage: str, own_atlas: Path, tmp_path: Path, run: Run) -> None:
    path, code = own_atlas, 4
    if damage == "missing":
        path, code = tmp_path / "none.atlas", 3
    elif damage == "truncated":
        file = database.database_file(own_atlas)
        file.write_bytes(file.read_bytes()[:20_000])
    else:
        database.database_file(own_atlas).write_bytes(b"not a database" * 1000)
    found, _, err = run("query", "--concept", "dog", "--atlas", path)
    assert found == code
    assert ("atlas init" if damage == "missing" else "atlas db rebuild") in err
    if code == 4:
        assert run("db", "rebuild", "--atlas", path)[0] == 0
        assert run("query", "--concept", "dog", "--atlas", path)[0] == 0


HOLD = """
import sys
from pathlib import Path
from atlas.store import engine
with engine.connect_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_atlas_that_another_process_writes(own_atlas: Path, run: Run) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(own_atlas)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    try:
        code, _, err = run("query", "--concept", "dog", "--atlas", own_atlas)
        assert code == 3 and f"process {holder.pid} is writing" in err and "try again" in err
        assert run("edit", "create", "x", "--concept", "dog", "--set", "0", "--atlas", own_atlas)[0] == 3
    finally:
        holder.communicate("")
    assert run("query", "--concept", "dog", "--atlas", own_atlas)[0] == 0


def test_ctrl_c_says_how_to_go_on_and_exits_with_130(tmp_path: Path, llava_folder: Path) -> None:
    atlas = tmp_path / "x.atlas"
    program = [sys.executable, "-m", "cli.main"]
    subprocess.run([*program, "init", "--atlas", str(atlas)], check=True, capture_output=True)
    options = f"--model {llava_folder} --methods contribution,ablation --per-concept 40 --batch-size 1 --atlas {atlas}"
    job = ["ingest", *options.split()]
    process = subprocess.Popen([*program, *job], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(atlas.glob("runs/*/shards/*.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    stored = len(list(atlas.glob("runs/*/shards/*.safetensors")))
    kept = re.search(r"(\d+) of (\d+) examples are kept; the same command goes on from there", err)
    assert kept and stored and 0 < int(kept[1]) < int(kept[2]) and "Traceback" not in err
    assert err.endswith("atlas: interrupted\n")


def test_ctrl_c_before_anything_is_finished_promises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    from cli.make import resumable

    for notes, said in (([], "nothing was finished yet"), (["0 of 9"], "nothing"), (["4 of 9"], "4 of 9 examples")):
        interrupt = KeyboardInterrupt()
        for note in notes:
            interrupt.add_note(note)
        with pytest.raises(KeyboardInterrupt), resumable():
            raise interrupt
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("answer, code", [("y", 0), ("n", 2), (None, 0)])
def test_a_model_that_was_not_named_is_told_and_asked_for_on_a_terminal(
    answer: str | None, code: int, empty_atlas: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return answer is not None

    monkeypatch.setattr(sys, "stdin", Typed(f"{answer}\n"))
    found, _, err = run("ingest", "--concepts", "dog", "--per-concept", 1, "--sources", "text", "--atlas", empty_atlas)
    assert found == code and "tiny-llava (no --model was given) on 3 examples of scenes: 1 concept, text" in err
    assert ("run that?" in err) == (answer is not None)
    assert bool(list(empty_atlas.glob("runs/*"))) == (code == 0)


def test_nothing_is_asked_where_that_is_wished_or_the_model_named(
    empty_atlas: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    rest = ("--concepts", "dog", "--per-concept", 1, "--sources", "text", "--atlas", empty_atlas)
    for more in (("--yes",), ("--no-input",), ("--model", "tiny-llava")):
        assert run("ingest", *more, *rest)[0] == 0


@pytest.mark.parametrize("command", ["ingest", "properties", "geometry", "index build", "edit solve a --from dog"])
def test_a_missing_atlas_is_told_before_torch_is_loaded(command: str, tmp_path: Path) -> None:
    program = (
        f"import sys; from cli.main import main; print(main({[*command.split(), '--atlas', str(tmp_path / 'no')]!r})); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"] and "there is no atlas at" in done.stderr


def test_ingest_from_a_job_file_with_flags_on_top(tmp_path: Path, llava_folder: Path, run: Run) -> None:
    atlas, job = tmp_path / "x.atlas", tmp_path / "job.toml"
    job.write_text(
        f'model = "{llava_folder}"\nconcepts = ["dog", "cat"]\nper_concept = 2\nsources = ["text"]\n'
        "[methods.contribution]\nnorm = true\n[methods.random]\n"
    )
    run("init", "--atlas", atlas)
    code, out, err = run("ingest", job, "--concepts", "dog", "--param", "random.seed=3", "--atlas", atlas)
    assert code == 0 and len(out.strip()) == 32 and "2 maps" in err  # one concept: no contrast
    code, again, err = run("ingest", job, "--concepts", "dog", "--param", "random.seed=3", "--atlas", atlas)
    assert code == 0 and again == out and "was done before" in err
    _, shown, _ = run("query", "--concept", "dog", "--method", "contribution", "--json", "--atlas", atlas)
    assert json.loads(shown)["provenance"]["maps"][0]["run_id"] == out.strip()
    job.write_text("modle = 3\n")
    assert "no job field called 'modle'; did you mean 'model'?" in run("ingest", job, "--atlas", atlas)[2]
    job.write_text("model = ")
    assert "is not a job file" in run("ingest", job, "--atlas", atlas)[2]


def test_a_dry_run_tells_the_cost_and_stores_nothing(tmp_path: Path, llava_folder: Path, run: Run) -> None:
    job = (
        "ingest",
        "--model",
        llava_folder,
        "--methods",
        "contribution,ablation",
        "--concepts",
        "dog,cat",
        "--dry-run",
    )
    code, out, _ = run(*job, "--atlas", tmp_path / "none.atlas")
    assert code == 0 and not (tmp_path / "none.atlas").exists()
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "128" in rows["neurons"] and "2 layers of 64" in rows["neurons"]
    assert "16" in rows["maps"] and "2,048" in rows["scores"]
    assert "at most" in rows["ablation"]
    shown = [line for line in out.splitlines() if line.startswith("words")]
    assert len(shown) == 2 and all("[" in line and "]" in line for line in shown)


def test_generate_and_apply_answer_from_a_picture(
    own_atlas: Path, llava_folder: Path, tmp_path: Path, run: Run
) -> None:
    file = tmp_path / "picture.png"
    Image.new("RGB", (30, 20), "red").save(file)
    ask = ("--image", file, "--prompt", "what is this ?", "--max-new-tokens", "6")
    code, plain, _ = run("generate", "--model", llava_folder, *ask)
    assert code == 0
    code, from_scene, _ = run("generate", "--model", llava_folder, "--image", "scenes:find/3", *ask[2:])
    assert code == 0 and isinstance(from_scene, str)
    run("edit", "create", "no-dog", "--concept", "dog", "--top", "40", "--set", "0", "--atlas", own_atlas)
    code, out, _ = run("edit", "apply", "no-dog", *ask, "--atlas", own_atlas)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [r["edit"] for r in rows] == ["(none)", "no-dog@1"]
    assert rows[0]["answer"] == plain.strip() != rows[1]["answer"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "missing.png"), (b"", "x.png"), (b"no picture", "x.png"), (b"\x89PNG\r\n", "x.png")]
)
def test_a_picture_that_does_not_open(
    content: bytes | None, message: str, llava_folder: Path, tmp_path: Path, run: Run
) -> None:
    file = tmp_path / ("missing.png" if content is None else "x.png")
    if content is not None:
        file.write_bytes(content)
    code, out, err = run("generate", "--model", llava_folder, "--image", file, "--prompt", "what")
    assert code == 1 and out == "" and message in err and "Traceback" not in err


def test_edit_commands(own_atlas: Path, run: Run) -> None:
    atlas = ("--atlas", own_atlas)
    code, out, _ = run("edit", "create", "no-dog", "--concept", "dog", "--top", "3", "--set", "0", *atlas)
    assert code == 0 and out.startswith("no-dog@1: 3 neurons of ")
    assert run("edit", "create", "no-dog", "--concept", "dog", "--layers", "1", "--scale", "0.5", *atlas)[0] == 0
    assert run("edit", "create", "calm", "--concept", "dog", "--top", "2", "--mean", *atlas)[0] == 0
    _, out, _ = run("edit", "ls", *atlas)
    assert [(r["name"], r["version"]) for r in map(json.loads, out.splitlines())] == [
        ("calm", 1),
        ("no-dog", 1),
        ("no-dog", 2),
    ]
    _, out, err = run("edit", "show", "no-dog@1", "--json", *atlas)
    shown = json.loads(out)
    assert {r["gain"] for r in shown["rows"]} == {0} and shown["provenance"]["selection"]["top"] == 3
    assert "no-dog@1 of" in err
    assert run("edit", "rm", "no-dog", *atlas)[1] == "removed no-dog@1\nremoved no-dog@2\n"
    assert run("db", "check", *atlas)[0] == 0


def test_lists(own_atlas: Path, run: Run, tmp_path: Path) -> None:
    methods = [json.loads(line)["method"] for line in run("methods")[1].splitlines()]
    assert {"contribution", "gradient_x_activation", "ablation", "activation", "random"} <= set(methods)
    assert {"scenes", "coco"} <= {json.loads(line)["dataset"] for line in run("datasets")[1].splitlines()}
    (stored,) = [json.loads(x) for x in run("runs", "--atlas", own_atlas)[1].splitlines()]
    assert stored["status"] == "done" and stored["kind"] == "ingest"
    found = [json.loads(x) for x in run("concepts", "--atlas", own_atlas)[1].splitlines()]
    assert {r["concept"] for r in found if r["maps"]} == {"dog", "cat"}
    found = [json.loads(x) for x in run("concepts", "--dataset", "scenes")[1].splitlines()]
    assert len(found) >= 16 and all(r["concept"] in r["forms"] for r in found)
    found = [json.loads(x) for x in run("models", "--atlas", own_atlas)[1].splitlines()]
    assert found[0]["status"] == "in the atlas"
    assert run("models", "--atlas", tmp_path / "none.atlas")[0] == 0


def test_where_the_atlas_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Flag, then environment, then the project's file, then the user's file, then the data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def where(*flags: object) -> Path:
        return Path(run("db", "path", *flags)[1].strip()).parent

    assert where() == tmp_path / "data" / "neuron-atlas" / "default.atlas"
    (tmp_path / "config" / "neuron-atlas").mkdir(parents=True)
    (tmp_path / "config" / "neuron-atlas" / "config.toml").write_text('atlas = "/user.atlas"\n')
    assert where() == Path("/user.atlas")
    Path("neuron-atlas.toml").write_text('atlas = "here.atlas"\n')
    assert where() == Path("here.atlas")
    monkeypatch.setenv("NEURON_ATLAS", "/env.atlas")
    assert where() == Path("/env.atlas")
    assert where("--atlas", "/flag.atlas") == Path("/flag.atlas")
    monkeypatch.delenv("NEURON_ATLAS")
    Path("neuron-atlas.toml").write_text("atlas = ")
    assert run("db", "path")[0] == 2


def test_a_full_disk_loses_nothing(
    own_atlas: Path, small_job: Any, monkeypatch: pytest.MonkeyPatch, llava_folder: Path, run: Run
) -> None:
    import errno

    from atlas.store import run_writer

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scores.parquet")

    monkeypatch.setattr(run_writer, "write_atomically", full)
    job = ("ingest", "--model", llava_folder, "--concepts", "dog", "--per-concept", "2", "--atlas", own_atlas)
    code, _, err = run(*job)
    assert code == 1 and "No space left on device" in err and "Traceback" not in err
    assert run("db", "check", "--atlas", own_atlas)[0] == 0
    monkeypatch.undo()
    assert run(*job)[0] == 0
    assert run("db", "check", "--atlas", own_atlas)[0] == 0


ELSEWHERE = {"init", "demo", "import", "edit import", "push", "pull", "db path", "models"}
"""Commands that take --atlas and need none yet: they make one, look at a file or the Hub first, or answer without."""

ASKING = {
    "count": ["--score", ">0"],
    "compare": ["--concept", "dog"],
    "match": ["--concept", "dog"],
    **{name: ["--concept", "dog"] for name in ("heatmaps", "layers", "only", "query", "shared", "select save")},
    "overlap": ["--concept", "dog", "--methods", "contribution,activation"],
    "roles": ["--concept", "dog"],
    "search": ["dog"],
    "plot search": [],
    "evaluate": ["no-dog"],
    "edit create": ["--of", "dog", "--set", "0"],
    "edit compose": ["no-cat"],
}
"""What a command, also below `plot`, needs besides its required arguments, so that nothing is wrong but the atlas."""

WITHOUT_ATLAS = [
    path
    for path in commands()
    if any("--atlas" in parameter.opts for parameter in found(path).params) and " ".join(path) not in ELSEWHERE
]


@pytest.mark.parametrize("path", WITHOUT_ATLAS, ids=" ".join)
def test_every_command_says_where_no_atlas_is(path: list[str], run: Run, tmp_path: Path) -> None:
    assert len(WITHOUT_ATLAS) > 40
    name = " ".join(path)
    words = list(ASKING.get(name, ASKING.get(name.removeprefix("plot "), [])))
    for parameter in found(path).params:
        if parameter.required:
            values = {"address": "0/1", "file": str(tmp_path / "x"), "to": "source=text"}
            value = values.get(parameter.name, "x")
            words = [value, *words] if parameter.param_type_name == "argument" else [*words, parameter.opts[0], value]
    code, out, err = run(*path, *words, "--atlas", tmp_path / "none.atlas")
    assert (code, out) == (3, "") and "there is no atlas at" in err.splitlines()[-1], err
    assert list(tmp_path.iterdir()) == []
