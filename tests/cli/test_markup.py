"""Tables for a text that is set: what is escaped, and that a reader of each language gets the cells back."""

from __future__ import annotations

import html
import re

import pyarrow as pa
import pytest
from markdown_it import MarkdownIt

from atlas import Atlas
from cli.main import main
from cli.render import show

NASTY = ["a|b", "<b>*x*</b> _y_", "50% of $x_1 & #2", r"back\slash ~ ^ {z}", "`code`", "[a](b)"]
TABLE = pa.table({"token": NASTY, "score": [1.5, -2.0, None, 0.25, 3.0, 4.0], "n": range(6)})


def test_markdown_gives_the_cells_back(capsys: pytest.CaptureFixture[str]) -> None:
    show(TABLE, "markdown")
    page = MarkdownIt().enable("table").render(capsys.readouterr().out)
    assert [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page)] == NASTY
    numbers = re.findall(r'<td style="text-align:right">(.*?)</td>', page)
    assert numbers[:4] == ["1.5", "0", "-2", "1"] and numbers[4] == "", "numbers are on the right, and none is empty"


def test_latex_escapes_what_means_something_there(capsys: pytest.CaptureFixture[str]) -> None:
    show(TABLE, "latex")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [r"\begin{tabular}{lrr}", r"\toprule", r"token & score & n \\", r"\midrule"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert lines[6] == r"50\% of \$x\_1 \& \#2 &  & 2 \\"
    assert lines[7] == r"back\textbackslash{}slash \textasciitilde{} \textasciicircum{} \{z\} & 0.25 & 3 \\"
    assert all(len(re.findall(r"(?<!\\)&", line)) == 2 for line in lines[4:-2])


def test_a_question_is_answered_in_both(stored_atlas: object, capsys: pytest.CaptureFixture[str]) -> None:
    question = ["layers", "--concept", "dog", "--method", "contribution", "--source", "text", "-a", str(stored_atlas)]
    rows = Atlas(str(stored_atlas)).layers("dog", method="contribution", source="text").table.num_rows
    for form, begins in (("markdown", "| "), ("latex", r"\begin{tabular}")):
        assert main([*question, "--format", form]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(begins) and len(printed.splitlines()) == rows + (2 if form == "markdown" else 6)
