"""What pages show of a terminal or of Python: read from a page, compared with what is printed now, or written anew."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from cli.main import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
UPDATE = bool(os.environ.get("UPDATE_DOCS"))
"""Write what is printed now into the pages instead of comparing."""

BLOCK = re.compile(
    r"<!-- transcript: (?P<name>[\w-]+)(?:, exit code (?P<code>\d))? -->\n```console\n(?P<text>.*?)```\n"
    r"|(?:<!-- (?P<mark>run|not run): [^\n]* -->\n)?"
    r"^```python\n(?P<code_text>.*?)```\n(?:\n```text\n(?P<printed>.*?)```\n)?",
    re.DOTALL | re.MULTILINE,
)
"""A transcript; or Python, with what it prints where that is shown, unless a comment says that another test runs it
(`run: NAME`) or why none does (`not run: WHY`)."""

REAL = "real"
"""The name of transcripts of the model with pretrained weights, which are run at night."""

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)")


@dataclass(frozen=True)
class Step:
    """A command as it is written, maybe over several lines, and what it printed."""

    shown: str
    printed: str

    @property
    def command(self) -> str:
        """What follows `atlas` when it is typed."""
        return re.sub(r"\s*\\\n\s*", " ", self.shown).removeprefix("$ atlas").strip()

    def __str__(self) -> str:
        return f"{self.shown}\n{self.printed}"


def steps_of(text: str) -> list[Step]:
    """The commands of a console block, each with the lines up to the next."""
    steps = []
    for part in re.split(r"^(?=\$ )", text, flags=re.MULTILINE):
        if part.strip():
            shown = re.match(r"(?:[^\n]*\\\n)*[^\n]*", part)
            assert shown is not None
            steps.append(Step(shown[0], part[len(shown[0]) :].strip("\n") + "\n"))
    return steps


def answered(command: str, code: int, known: Mapping[str, str]) -> str:
    """What a command prints: read from `known`, where it was run already."""
    if command in known:
        return known[command]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        outcome = main(shlex.split(command))
    assert outcome == code, f"$ atlas {command}\n{printed.getvalue()}(exit code {outcome})"
    return printed.getvalue().strip("\n") + "\n"


def replay(page: Path, known: Mapping[str, str], *, real: bool = False) -> None:
    """Run the transcripts and the Python of a page from top to bottom, as one session; compare what is printed with
    what is written, or write it. known: what commands print that were run already. real: the transcripts called REAL
    and nothing else, in place of everything else."""
    scope: dict[str, Any] = {}

    def block(match: re.Match[str]) -> str:
        if (match["name"] == REAL) != real:
            return match[0]
        return _console(match, known) if match["name"] else _python(match, scope)

    text = page.read_text(encoding="utf-8")
    now = BLOCK.sub(block, text)
    if UPDATE and now != text:
        page.write_text(now, encoding="utf-8")


def _console(match: re.Match[str], known: Mapping[str, str]) -> str:
    written = steps_of(match["text"])
    printed = [answered(step.command, int(match["code"] or 0), known) for step in written]
    now = [Step(step.shown, checked(step.printed, text)) for step, text in zip(written, printed, strict=True)]
    return _with(match, "text", "\n".join(map(str, now)))


def _python(match: re.Match[str], scope: dict[str, Any]) -> str:
    """A block of Python, and what it prints where a text block follows."""
    if match["mark"]:
        return match[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(match["code_text"], "a page", "exec"), scope)
    if match["printed"] is None:
        return match[0]
    return _with(match, "printed", checked(match["printed"], printed.getvalue()))


def _with(match: re.Match[str], group: str, text: str) -> str:
    start, end = (place - match.start() for place in match.span(group))
    return match[0][:start] + text + match[0][end:]


def checked(written: str, printed: str) -> str:
    """What is to stand on the page: what is written there, where it is what is printed; else what is printed, if pages
    are being updated."""
    try:
        compare(written, printed)
    except AssertionError:
        if not UPDATE:
            raise
        return printed
    return written


def compare(written: str, printed: str) -> None:
    """The same text, line by line. A number with a decimal point or an exponent may differ by 2 %, or by one unit in
    the last digit that is printed; whole numbers (layers, neurons, ranks, counts) may not."""
    old, new = (_free(text).splitlines() for text in (written, printed))
    assert len(old) == len(new), f"{written}\nis now\n{printed}"
    for one, other in zip(old, new, strict=True):
        assert NUMBER.sub("#", one) == NUMBER.sub("#", other), f"{one!r} is now {other!r}"
        for a, b in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True):
            assert close(a, b), f"{a} is now {b} in {other!r}"


def close(one: str, other: str) -> bool:
    a, b = Decimal(one), Decimal(other)
    if not set(".e") & set(one + other):
        return a == b
    unit = Decimal(1).scaleb(max(int(n.as_tuple().exponent) for n in (a, b)))
    return abs(a - b) <= max(unit, abs(a) * Decimal("0.02"))


def _free(text: str) -> str:
    """Without what no two runs have in common."""
    text = re.sub(r"^[0-9a-f]{32}$|^[0-9a-f]{8}(?=,)", "id", text, flags=re.MULTILINE)  # other libraries, other ids
    text = re.sub(r"(?<=--after )\S+", "cursor", text)  # it holds the ids of runs
    text = re.sub(r"\b\d+(\.\d+)? s\b", "# s", text)  # how long something took
    text = re.sub(r"(?<=,)\d+\.\d+(?=,\d{4}-)", "#", text)  # the same in the list of runs, before its start
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.+]+", "moment", text)
    return re.sub(r"-{3,}", "---", re.sub(r" +\n| +$", "\n", re.sub(r"  +", "  ", text)))  # widths follow the numbers
