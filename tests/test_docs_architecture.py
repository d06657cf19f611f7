"""The tree in docs/architecture.md is that of the folders; `UPDATE_DOCS=1` writes it, keeping what folders are for."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from transcripts import ROOT, UPDATE

PAGE = ROOT / "docs" / "architecture.md"
TREE = re.compile(r"(?<=<!-- tree -->\n```text\n).*?(?=```\n<!-- /tree -->)", re.DOTALL)
TOPS = ("atlas", "ingest", "cli", "alembic")
COLUMN, WIDTH = 26, 110


def packages(folder: Path, depth: int = 0) -> Iterator[tuple[Path, int]]:
    """A folder and those below it that hold Python modules, parents first."""
    yield folder, depth
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        if any(below.rglob("*.py")):
            yield from packages(below, depth + 1)


def tree(purposes: Mapping[str, str]) -> str:
    """Every folder with what it is for, and its modules."""
    lines = []
    for top in TOPS:
        for folder, depth in packages(ROOT / top):
            indent = "  " * depth
            purpose = purposes.get(str(folder.relative_to(ROOT)), "")
            lines.append(f"{f'{indent}{folder.name}/':{COLUMN}}# {purpose}".rstrip())
            modules = " ".join(path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__")
            inner = f"{indent}  "
            lines += textwrap.wrap(
                modules, WIDTH, initial_indent=inner, subsequent_indent=inner, break_on_hyphens=False
            )
    return "\n".join(lines) + "\n"


def purposes_in(text: str) -> dict[str, str]:
    """Folder, as a path from the root -> what is behind its `#`."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"(?P<indent> *)(?P<name>[\w-]+)/ +# ?(?P<purpose>.*)", line):
            above = [*above[: len(match["indent"]) // 2], match["name"]]
            found["/".join(above)] = match["purpose"]
    return found


def test_the_tree_is_that_of_the_folders() -> None:
    page = PAGE.read_text(encoding="utf-8")
    written = TREE.search(page)
    assert written is not None
    now = tree(purposes_in(written[0]))
    if UPDATE:
        PAGE.write_text(TREE.sub(lambda _: now, page), encoding="utf-8")
    else:
        assert written[0] == now


def test_every_folder_says_what_it_is_for() -> None:
    """Of a new folder, write it behind the `#` of its line."""
    text = TREE.search(PAGE.read_text(encoding="utf-8"))
    assert text is not None
    assert [folder for folder, purpose in purposes_in(text[0]).items() if not purpose] == []
