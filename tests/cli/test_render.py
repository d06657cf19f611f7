"""What is printed: no data moves the terminal, no cell is a formula, no stream or encoding is too odd."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import common, render
from cli.text import blocks, fitted, narrowed, visible, width

REPOSITORY = Path(__file__).resolve().parents[2]
EVIL = "\x1b[2Jred\x07\x9b1m\r\n\u202egnp\udcff\u2028"
SEEN = r"\x1b[2Jred\x07\x9b1m\r\n\u202egnp\udcff\u2028"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a table of 60 columns' width shows: (table, form) -> text."""

    def shown(table: pa.Table, form: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", there := Terminal())
            patch.setenv("COLUMNS", "60")
            render.show(table, form)
        return there.getvalue()

    return shown


def test_what_moves_a_terminal_is_an_escape_and_what_is_written_stays() -> None:
    assert visible(EVIL) == SEEN and visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    for plain in ("dog", "Köder", "犬　猫", "می\u200cخواهم", "👩\u200d🚀", "a\u00a0b"):
        assert visible(plain) == plain


@pytest.mark.parametrize("form", ["table", "csv", "tsv", "json", "jsonl"])
def test_no_form_of_output_has_controls_on_a_terminal(form: str, on_terminal: Any) -> None:
    text = on_terminal(pa.table({"token": [EVIL.replace("\udcff", ""), "plain"], "n": [1, 2]}), form)
    assert "\\x1b[2J" in text or "\\u001b[2J" in text
    assert all(c in "\n\t" or c.isprintable() for c in text)
    if form.startswith("json"):
        rows = json.loads(text)["rows"] if form == "json" else [json.loads(line) for line in text.splitlines()]
        assert rows[0]["token"] == EVIL.replace("\udcff", "")


def test_messages_errors_and_results_are_escaped_wherever_they_go(run: Any, capfd: Any, tmp_path: Path) -> None:
    common.say(f"fetched {EVIL}")
    common.tell(f"removed {EVIL}")
    out, err = capfd.readouterr()
    assert err == f"fetched {SEEN}\n" and out == "removed " + SEEN.replace("\\n", "\n") + "\n"
    code, _, err = run("query", "--concept", "\x1b[2J", "--atlas", tmp_path / "no\x1bne")
    assert code == 3 and "\x1b" not in err and "no\\x1bne" in err


def test_csv_in_a_file_is_no_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    texts = ["=1+1", "+a", "-b", "@c", "\td", "\re", "f=1", ""]
    table = pa.table({"token": texts, "score": [-1.5] * 8})

    def written(name: str, form: str = "csv") -> list[list[str]]:
        with (tmp_path / name).open("w+", newline="") as file:
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", file)
                render.show(table, form)
            file.seek(0)
            return list(csv.reader(file, delimiter="," if form == "csv" else "\t"))

    guarded = [[f"'{t}" if t[:1] in tuple("=+-@\t\r") and t else t, "-1.5"] for t in texts]
    assert written("a.csv")[1:] == guarded and written("a.tsv", "tsv")[1:] == guarded
    assert "6 texts begin as a formula would" in capsys.readouterr().err
    monkeypatch.setattr(render, "_spreadsheet", False)
    assert written("b.csv")[1:] == [[t, "-1.5"] for t in texts] and capsys.readouterr().err == ""


def test_a_pipe_gets_the_texts_as_they_are(stored_atlas: Path) -> None:
    statement = "SELECT '=1' AS a"
    command = [sys.executable, "-m", "cli.main", "sql", statement, "--csv", "--atlas", str(stored_atlas)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "a\n=1\n"
    done = subprocess.run([*command, "--spreadsheet"], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout == "a\n'=1\n"


def test_a_table_fits_the_terminal(on_terminal: Any) -> None:
    long, wide = "word " * 40, "犬" * 40
    table = pa.table({"layer": [1], "token": [long], "other": [wide], "score": [0.123456]})
    lines = on_terminal(table, "table").splitlines()
    assert max(map(width, lines)) == 60 and lines[2].count("...") == 2 and lines[2].endswith("0.1235")
    assert narrowed([5, 100], [False, True], 40) == [5, 33] and narrowed([50, 9], [False, True], 20) == [50, 8]
    assert fitted("犬犬犬犬", 7) == "犬犬..." and fitted("abc", 3) == "abc" and width("e\u0301犬") == 3


def test_a_table_that_is_too_wide_stands_in_blocks_that_each_say_what_a_row_is(capsys: Any) -> None:
    names = [f"number_{i}" for i in range(12)]
    table = pa.table({"source": ["text", "image"], "n": [1, 2]} | {name: [0.123456, 98765.4] for name in names})
    render.show(table, "table")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= render.WIDTH
    parts = [part.splitlines() for part in printed.strip().split("\n\n")]
    assert len(parts) == 2 and all(len(part) == 4 for part in parts)
    assert all(part[2].split()[0] == "text" and part[3].split()[0] == "image" for part in parts)
    assert [name for part in parts for name in part[0].split()[1:]] == ["n", *names]
    assert printed.count("0.1235") == 12 and "..." not in printed


@given(widths=st.lists(st.integers(1, 40), min_size=1, max_size=30), data=st.data())
def test_blocks_show_every_column_and_fit_where_that_can_be(widths: list[int], data: st.DataObject) -> None:
    keys, room = data.draw(st.integers(0, len(widths))), data.draw(st.integers(10, 120))
    made = blocks(widths, keys, room)
    assert [i for block in made for i in block[keys:]] == list(range(keys, len(widths)))
    for block in made:
        assert block[:keys] == list(range(keys))
        assert len(block) <= keys + 1 or sum(widths[i] for i in block) + 2 * (len(block) - 1) <= room


STREAMS = {
    "no stdout": ("methods >&-", 0),
    "a full stdout": ("methods >/dev/full", 1),
    "no stdin": ("methods <&- >/dev/null", 0),
    "no stderr": ("nosuch 2>&-", 2),
    "a full stderr": ("nosuch 2>/dev/full", 2),
    "a reader that has enough": ("methods | head -c 1", 0),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streams_that_are_closed_or_full_are_no_defect(case: str) -> None:
    line, code = STREAMS[case]
    shell = f"set -o pipefail; {sys.executable} -m cli.main {line}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == code and "Traceback" not in done.stderr and "internal" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
def test_any_encoding_of_stdout_is_written(encoding: str, stored_atlas: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for form in ("table", "csv", "jsonl"):
        command = [sys.executable, "-m", "cli.main", "sql", "SELECT 'Köder 犬' AS é", "--format", form]
        done = subprocess.run(
            [*command, "--atlas", str(stored_atlas)], capture_output=True, cwd=REPOSITORY, check=True, env=environment
        )
        if form == "jsonl":
            assert json.loads(done.stdout.decode(encoding)) == {"é": "Köder 犬"}


def test_quiet_works_before_and_behind_a_command(run: Any, tmp_path: Path) -> None:
    for number, line in enumerate((("-q", "init"), ("init", "-q"), ("init", "--quiet"))):
        assert run(*line, "--atlas", tmp_path / str(number))[2] == ""
    assert run("init", "--atlas", tmp_path / "told")[2] == "made an empty atlas\n"
    code, _, err = run("runs", "show", "nosuch", "-q", "--debug", "--atlas", tmp_path / "told")
    assert code == 2 and "nosuch" in err
