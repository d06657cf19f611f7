"""Killed at any step, between any two calls that change the disk or in the middle of a write: the same command again
does what it would have done, nothing is lost or doubled, and nothing is left lying about."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from faulting import Nursery
from operations import NAMES, Operation, Operations


def kill(nursery: Nursery, operation: Operation, path: Path, **fault: Any) -> bool:
    """Kill the operation once and do it again; False where it was done before it could be killed."""
    first = nursery.run(*operation.begin(path), **fault)
    killed = first.code in (-signal.SIGKILL, -signal.SIGXFSZ, -signal.SIGALRM)
    assert killed or first.code == 0, f"{fault}: {first.err}"
    if killed:
        operation.again(nursery, path, fault)
    else:
        operation.require_done(path, fault)
    shutil.rmtree(path)
    return killed


@pytest.mark.parametrize("share", [0.35, 0.85])
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_a_step(name: str, share: float, operations: Operations, nursery: Nursery, tmp_path: Path) -> None:
    operation = operations(name)
    assert kill(nursery, operation, tmp_path / "killed.atlas", kill=round(share * operation.steps))


def kills(nursery: Nursery, operation: Operation, path: Path, faults: Iterable[Mapping[str, Any]]) -> int:
    """How many of the faults killed; every one that did harm is told, not the first alone."""
    count, harm = 0, []
    for fault in faults:
        try:
            count += kill(nursery, operation, path, **fault)
        except AssertionError as error:
            harm.append(str(error).splitlines()[0][:400])
            shutil.rmtree(path, ignore_errors=True)
    assert not harm, "\n".join(harm)
    return count


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_every_step(name: str, operations: Operations, nursery: Nursery, tmp_path: Path) -> None:
    operation = operations(name)
    steps = range(1, operation.steps + 1)
    assert kills(nursery, operation, tmp_path / "killed.atlas", ({"kill": n} for n in steps)) == operation.steps


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_killed_in_the_middle_of_a_write(name: str, operations: Operations, nursery: Nursery, tmp_path: Path) -> None:
    """At file sizes from next to nothing to the largest file there, in equal ratios."""
    operation = operations(name)
    sizes = [round(64 * (operation.size / 64) ** (i / 12)) for i in range(12)]
    assert kills(nursery, operation, tmp_path / "killed.atlas", ({"grow": n, "die": True} for n in sizes)) >= 4


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["ingest", "load", "upgrade", "compact"])
def test_killed_at_any_moment(name: str, operations: Operations, nursery: Nursery, tmp_path: Path) -> None:
    """Where the moment falls depends on the machine; what must be true afterwards does not."""
    operation, draw = operations(name), random.Random(name)
    kills(nursery, operation, tmp_path / "killed.atlas", ({"after": draw.uniform(0.02, 0.8)} for _ in range(10)))
