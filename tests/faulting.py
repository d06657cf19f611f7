"""Commands run in children that are disturbed: killed at any step, out of room, without rights, too late.

`Nursery` is a process that has imported everything and done nothing; each command is a fork of it, so that a fault
costs what the command costs and not ten seconds of imports. Run as a program this file is that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PATIENCE = 120
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Done:
    """How a command ended. code: its exit code, negative for the signal that killed it. steps: how many of the calls
    at which it could have been killed it made, where it lived to tell."""

    code: int
    out: str
    err: str
    steps: int


class Nursery:
    """The process whose forks are the commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
        environment["NO_COLOR"] = "1"
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *arguments: object, **fault: Any) -> Done:
        """Run `atlas ARGUMENTS`, or where the first is `load` store the run folder ARGUMENT in the atlas ARGUMENT.

        fault: kill=N dies at the N-th step. grow=BYTES: no file grows beyond that, and with die=True the process is
        killed in the middle of the write that would. after=SECONDS dies then. user=UID: as that user. clock=SECONDS:
        with a clock that is so far ahead.
        """
        task = {"arguments": [str(a) for a in arguments], "folder": str(self.folder), **fault}
        for name in ("out", "err", "steps"):
            (self.folder / name).write_text("")
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said, "the nursery is gone"
        code = int(said)
        out, err, steps = ((self.folder / name).read_text() for name in ("out", "err", "steps"))
        assert code != -signal.SIGTERM, f"{arguments} hangs with {fault}: {err}"
        return Done(code, out, err, int(steps or 0))

    def good(self, *arguments: object, **fault: Any) -> Done:
        """A command that must succeed."""
        done = self.run(*arguments, **fault)
        assert done.code == 0, f"{arguments}: {done.code} {done.err}"
        return done

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


VOLATILE = {"started_at", "finished_at", "created_at", "built_at"}


def contents(path: Path) -> Mapping[str, list[Any]]:
    """Every row of every table, but for moments and durations: what two atlases that were made alike share."""
    from atlas.store import engine, schema

    found: dict[str, list[Any]] = {}
    with engine.connect_readonly(path) as connection:
        for table in schema.metadata.sorted_tables:
            names = [c.name for c in table.columns if c.name not in VOLATILE]
            names = [n for n in names if (table.name, n) != ("edits", "sha256")]  # the file has the moment in it
            rows = [dict(row) for row in connection.execute(table.select()).mappings()]
            for row in rows if table.name == "runs" else []:
                outcome = json.loads(row["outcome"])
                row["outcome"] = {
                    k: v for k, v in outcome.items() if k not in ("seconds", "phases", "peak_memory_bytes")
                }
            found[table.name] = sorted((tuple(row[n] for n in names) for row in rows), key=repr)
    return found


def files(path: Path) -> set[str]:
    """The files of an atlas but for whole backups, locks and the log; what a killed command leaves is among them."""
    found = {str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()}
    whole = {f for f in found if f.startswith("backups/") and f.endswith((".duckdb", ".duckdb.wal"))}
    return {f for f in found - whole if not f.endswith("/lock")} - {"atlas.duckdb.wal"}


def damage(file: Path, *, flip: int | None = None, cut: int | None = None) -> None:
    """Change one byte of a file, or cut it."""
    data = bytearray(file.read_bytes())
    if flip is not None:
        data[flip] ^= 0xFF
    file.write_bytes(data if cut is None else data[:cut])


# What runs in the children

NEEDED = (
    "alembic.command",
    "atlas.store.engine",
    "pyarrow.parquet",
    "atlas.api.atlas",
    "atlas.maintain.check",
    "atlas.maintain.rebuild",
)
NEEDED += ("ingest.embed.embed", "ingest.run.prepare", "transformers.models.llava.modeling_llava")


class _Steps:
    """Counts the calls that change what is on the disk, and dies at one of them."""

    def __init__(self, last: int | None) -> None:
        self.count, self.last = 0, last

    def watch(self, owner: Any, name: str) -> None:
        whole: Callable[..., Any] = getattr(owner, name)

        def stepped(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*arguments, **options)

        setattr(owner, name, stepped)


def _disturb(task: Mapping[str, Any]) -> _Steps:
    import resource
    import shutil

    import duckdb

    steps = _Steps(task.get("kill"))
    for name in ("replace", "unlink", "fsync", "mkdir", "rmdir"):
        steps.watch(os, name)
    steps.watch(shutil, "copyfile")
    for name in ("execute", "commit", "close"):
        steps.watch(duckdb.DuckDBPyConnection, name)
    if "grow" in task:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if task.get("die") else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["grow"], task["grow"]))
    if "after" in task:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, task["after"])
    if "clock" in task:
        _shift_clock(task["clock"])
    if "user" in task:
        os.setgroups([])
        os.setgid(task["user"])
        os.setuid(task["user"])
    return steps


def _shift_clock(seconds: float) -> None:
    import datetime

    from atlas.store import ledger, migrations

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

    ledger.datetime = migrations.datetime = Shifted  # type: ignore[misc]


def _load(path: Path, folder: Path) -> int:
    """What `atlas ingest` ends with, as a command of its own."""
    from atlas import errors
    from atlas.store import engine, run_loader

    try:
        with engine.connect_writer(path) as connection:
            run_loader.load_run(connection, folder)
    except errors.AtlasError as error:
        sys.stderr.write(f"atlas: {error}\n")
        return error.exit_code
    return 0


def _child(task: Mapping[str, Any]) -> None:
    import atexit

    from cli.main import main

    folder = Path(task["folder"])
    steps_file = os.open(folder / "steps", os.O_WRONLY)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    steps = _disturb(task)
    arguments: Sequence[str] = task["arguments"]
    code = _load(*map(Path, arguments[1:])) if arguments[0] == "load" else main(list(arguments))
    count = steps.count
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(steps_file, str(count).encode())
    atexit._run_exitfuncs()
    os._exit(code)


def _ended(pid: int) -> int:
    """The exit code of a child; SIGTERM's for one that hangs."""
    import time

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGTERM


def _nurse() -> None:
    import importlib

    import torch

    from cli.main import make_app

    for name in NEEDED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    make_app()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                _child(json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(99)
        sys.stdout.write(f"{_ended(pid)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _nurse()
    os._exit(0)  # the interpreter's own way out prints pages about duckdb's binding
