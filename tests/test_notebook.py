"""The notebook of the docs: it runs, nothing of it is stored but its text, and its text is true."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_hour.ipynb"
FIGURES = 8
"""Cells that show a picture."""


def read() -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(cells: Sequence[Any]) -> str:
    """What cells printed, and the text of what they show."""
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_no_output_is_stored() -> None:
    for cell in read().cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.source


def test_it_runs_shows_its_figures_and_says_what_came_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # nothing of the user's own settings
    notebook = read()
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"], "no warnings"
    shown = [
        number
        for number, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]
    assert len(shown) == FIGURES
    checked = 0
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            for claim in re.findall(r"\*\*(.+?)\*\*", cell.source):
                if claim != "bold":
                    assert claim in printed(notebook.cells[:number]), claim
                    checked += 1
    assert checked == 6
