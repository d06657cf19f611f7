"""The bar below a notebook's cell: what it shows, when it is replaced, and that it goes."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from atlas.api import notebook_progress
from ingest.requests.progress import Progress


class Display:
    """Stands in for IPython: keeps every picture of the bar."""

    def __init__(self) -> None:
        self.pictures: list[str] = []

    def HTML(self, markup: str) -> str:  # noqa: N802
        return markup

    def display(self, content: str, display_id: bool) -> Display:
        assert display_id
        self.pictures.append(content)
        return self

    def update(self, content: str) -> None:
        self.pictures.append(content)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Display:
    shown: Any = Display()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    return shown  # type: ignore[no-any-return]


def test_a_notebook_has_one_bar_that_goes_in_the_end(notebook: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(0, 1)
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))
    progress = notebook_progress.watching()
    progress(1, 4)
    progress.phase("<decoding>")
    progress(4, 4)
    assert notebook.pictures[0].startswith('<progress value="1" max="4">') and "1 of 4" in notebook.pictures[0]
    assert "&lt;decoding&gt; 4 of 4" in notebook.pictures[1]
    progress.close()
    assert notebook.pictures[2:] == [""]


def test_work_that_tells_nothing_shows_nothing(notebook: Display) -> None:
    notebook_progress.watching().close()
    assert not notebook.pictures


def test_nobody_watches_outside_a_notebook() -> None:
    assert not notebook_progress.in_notebook()
    assert type(notebook_progress.watching()) is Progress
