"""Progress on stderr: a bar with rate and time to go on a terminal, a line now and then elsewhere, nothing if asked."""

from __future__ import annotations

import io
import itertools

import pytest

from cli import make


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    with make.progressing(False) as progress:
        progress(1, 4)
        progress(4, 4)
    assert "4/4" in stderr.getvalue() and "/s" in stderr.getvalue()


def test_a_log_gets_a_line_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = itertools.count(0, 2)
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))
    with make.progressing(False) as progress:
        for done in range(1, 7):
            progress(done, 8)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["3 of 8, 0.5/s, 10 s to go", "6 of 8, 0.5/s, 4 s to go"]


def test_no_progress_where_none_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with make.progressing(True) as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""
