"""Progress on stderr: a bar with rate and time to go on a terminal, a line now and then elsewhere, nothing if asked."""

from __future__ import annotations

import io
import itertools

import pytest

from cli import make
from ingest.requests.progress import Pace


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
    assert lines == ["2 of 8, 0.2/s, 24 s to go", "4 of 8, 0.2/s, 16 s to go", "6 of 8, 0.2/s, 8 s to go"]


def test_the_time_to_go_is_of_the_work_and_not_of_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow first step, or many at once that were done before, say nothing of those that follow."""
    moments = iter([60.0, 61.0, 62.0, 100.0, 101.0])
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    pace = Pace()
    assert [pace.after(done, 400) for done in (100, 110, 120)] == ["", "10.0/s, 29 s to go", "10.0/s, 28 s to go"]
    assert pace.after(130, 400) == "0.3/s, 1026 s to go"  # from 62 s on
    assert pace.after(170, 400) == "1.3/s, 179 s to go"


def test_no_progress_where_none_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with make.progressing(True) as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""


def test_another_phase_is_named_and_counted_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = itertools.count(0, 3)
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))
    with make.progressing(False) as progress:
        for done in (100, 110, 120):
            progress(done, 120)
        progress.phase("decoding")
        for done in (1, 2, 3):
            progress(done, 30)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "decoding: 3 of 30, 0.2/s, 162 s to go"
