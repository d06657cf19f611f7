"""What tests of plug-ins share: distributions written by hand, and what a list shows of them."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from atlas import plugins, registry
from cli.main import main

COUNT = '''
    """How many examples there were: a score for every neuron."""
    import torch
    from ingest.attribution.estimators import PairMethod

    class Count(PairMethod):
        def __init__(self, of):
            super().__init__()
            self.of = of

        def score(self, trace, layer):
            return torch.full((len(trace.concepts), trace.live.layout.width), float(self.of))

    def build(*, of: int = 1):
        """of: the score."""
        return Count(of)
    '''
COUNTED = "[neuron_atlas.methods]\ncount = counting\n"
"""The module of a method and the entry point of it, of a distribution "counting"."""


class Site:
    """A folder in which Python looks for packages, and in which tests install distributions by hand."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.modules: list[str] = []

    def install(self, name: str, points: str, source: str | None = "", *, version: str = "1.0") -> Path:
        """Write a distribution's metadata and its one module, of the same name; the folder of the metadata."""
        metadata = self.folder / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(textwrap.dedent(points))
        if source is not None:
            (self.folder / f"{name}.py").write_text(textwrap.dedent(source))
            self.modules.append(name)
        read_again()
        return metadata


@contextmanager
def site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A `Site` while the block lasts."""
    monkeypatch.syspath_prepend(folder)
    made = Site(folder)
    try:
        yield made
    finally:
        read_again()
        for name in made.modules:
            forget(name)


def read_again() -> None:
    """As in a new process: metadata is read and warnings are given again."""
    plugins._read.cache_clear()
    registry._warn_once.cache_clear()


def forget(name: str) -> None:
    """Take a package and its modules out of those that are imported."""
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


def listed(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Mapping[str, Any]], str]:
    """The rows of `atlas methods` or `atlas datasets` by name, and what went to stderr."""
    assert main([command, "--format", "jsonl"]) == 0
    out, err = capsys.readouterr()
    return {row[command.removesuffix("s")]: row for row in map(json.loads, out.splitlines())}, err
