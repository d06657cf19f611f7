"""What can be disturbed: the commands that write, what each starts from, and what must be there afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faulting import Done, Nursery, contents, files
from older_atlas import older_atlas

from atlas.maintain.check import check
from atlas.store import create

NAMES = ("init", "ingest", "load", "index", "edit", "upgrade", "rm", "rm-index", "compact", "rebuild", "import")
DOG = ("--concept", "dog", "--method", "contribution", "--source", "image", "--top", "5")
INDEX = ("index", "build", "--space", "profile", "--method", "contribution", "--source", "image", "--atlas")
EDIT = ("edit", "create", "new", "--write-noise", "1", *DOG, "--atlas")


@dataclass(frozen=True)
class Operation:
    """A command, what it starts from, and what must be there when it has been done once (or, for a command that makes
    something new each time, twice). steps: at which it can be killed. size: of the largest file afterwards."""

    before: Path
    command: Callable[[Path], tuple[object, ...]]
    results: tuple[tuple[Mapping[str, Any], set[str]], ...]
    steps: int
    size: int

    def begin(self, path: Path) -> tuple[object, ...]:
        """Put there what it starts from; the command."""
        if self.before.exists():
            shutil.copytree(self.before, path)
        return self.command(path)

    def require_done(self, path: Path, fault: object) -> None:
        """The atlas agrees with itself, has what it must have, and nothing is left lying about."""
        assert check(path) == [], fault
        rows, there = contents(path), files(path)
        for table, found in rows.items():
            assert any(found == wanted[table] for wanted, _ in self.results), f"{fault}: {table} has other rows"
        left = [there ^ names for wanted, names in self.results if rows == wanted]
        assert set() in left, f"{fault}: {left}"

    def again(self, nursery: Nursery, path: Path, fault: object) -> Done:
        """The same command, after it was disturbed."""
        command = self.command(path)
        second = nursery.run(*command)
        gone = "rm" in command and "no run called" in second.err  # what is removed cannot be removed again
        assert second.code == 0 or gone, f"{fault}: {second.err}"
        self.require_done(path, fault)
        return second


class Operations:
    """Every operation by its name, each undisturbed once."""

    def __init__(self, nursery: Nursery, world: Path, ingesting: tuple[str, ...], home: Path) -> None:
        self.nursery, self.world, self.home = nursery, world, home
        scored, embedded = runs_of(world)
        self.scored, self.embedded = scored, embedded
        self._made: dict[str, Operation] = {}
        self._known: dict[str, tuple[Callable[[], Path], Callable[[Path], tuple[object, ...]]]] = {
            "init": (lambda: home / "nothing.atlas", lambda path: ("init", "--atlas", path)),
            "ingest": (self._empty, lambda path: (*ingesting, path)),
            "load": (self._to_load, lambda path: ("load", path, path / "runs" / scored)),
            "index": (self._unindexed, lambda path: (*INDEX, path)),
            "edit": (lambda: world, lambda path: (*EDIT, path)),
            "upgrade": (
                lambda: older_atlas(world, home / "old.atlas", scored),
                lambda path: ("db", "upgrade", "--atlas", path),
            ),
            "rm": (lambda: world, lambda path: ("runs", "rm", scored, "--yes", "--atlas", path)),
            "rm-index": (lambda: world, lambda path: ("runs", "rm", embedded, "--yes", "--atlas", path)),
            "compact": (lambda: world, lambda path: ("db", "compact", "--atlas", path)),
            "rebuild": (lambda: world, lambda path: ("db", "rebuild", "--atlas", path)),
            "import": (lambda: home / "nothing.atlas", lambda path: ("import", self.bundle(), "--atlas", path)),
        }

    def __call__(self, name: str) -> Operation:
        if name not in self._made:
            before, command = self._known[name][0](), self._known[name][1]
            whole = self.home / f"{name}.whole"
            if before.exists():
                shutil.copytree(before, whole)
            steps = self.nursery.good(*command(whole)).steps
            results = [(contents(whole), files(whole))]
            assert check(whole) == []
            if name == "edit":
                self.nursery.good(*command(whole))
                results.append((contents(whole), files(whole)))
            size = max(f.stat().st_size for f in whole.rglob("*") if f.is_file())
            self._made[name] = Operation(before, command, tuple(results), steps, size)
        return self._made[name]

    def bundle(self) -> Path:
        """Of the world."""
        folder = self.home / "bundle"
        if not folder.exists():
            self.nursery.good("export", folder, "--atlas", self.world)
        return folder

    def _empty(self) -> Path:
        create.init(self.home / "empty.atlas")
        return self.home / "empty.atlas"

    def _to_load(self) -> Path:
        shutil.copytree(self._empty(), self.home / "load.atlas")
        shutil.copytree(self.world / "runs" / self.scored, self.home / "load.atlas" / "runs" / self.scored)
        return self.home / "load.atlas"

    def _unindexed(self) -> Path:
        path = Path(shutil.copytree(self.world, self.home / "unindexed.atlas"))
        self.nursery.good("runs", "rm", self.embedded, "--yes", "--atlas", path)
        return path


def runs_of(path: Path) -> tuple[str, str]:
    """The ids of the run of scores and of the run of vectors."""
    (vectors,) = (f.parent.name for f in path.glob("runs/*/vectors.parquet"))
    (scores,) = (f.parent.name for f in path.glob("runs/*/scores.parquet"))
    return scores, vectors
