"""Damaged files: found, named, with the code for it, and made good again; an answer is never other than it was."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from faulting import Nursery, contents, damage
from operations import DOG, INDEX, Operations, runs_of

from atlas.maintain.check import check
from atlas.store.database import database_file, wal


def rebuilt(nursery: Nursery, operations: Operations, path: Path) -> None:
    nursery.good("db", "rebuild", "--atlas", path)
    assert check(path) == []
    assert contents(path) == operations("rebuild").results[0][0]


def flipped(nursery: Nursery, operations: Operations, path: Path, place: int) -> bool:
    """Flip a byte of the database: whether that was noticed. Where it was not, nothing may have changed."""
    file = database_file(path)
    original = file.read_bytes()
    damage(file, flip=place)
    done = nursery.run("db", "check", "--atlas", path)
    if done.code == 0:
        assert contents(path) == contents(operations.world), place
    else:
        assert done.code == 4 and "internal error" not in done.err and "Traceback" not in done.err, (place, done)
        assert "atlas db rebuild" in done.err and file.read_bytes()[place] != original[place], (place, done)
        rebuilt(nursery, operations, path)
    file.write_bytes(original)
    shutil.rmtree(path / "backups", ignore_errors=True)
    return done.code != 0


def test_a_flipped_byte_in_the_database(world: Path, nursery: Nursery, operations: Operations) -> None:
    draw, size = random.Random(0), database_file(world).stat().st_size
    assert flipped(nursery, operations, world, 9)  # the signature
    places = [draw.randrange(4096, 12288), *(draw.randrange(12288, size) for _ in range(4))]
    assert sum(flipped(nursery, operations, world, place) for place in places) > 0


@pytest.mark.nightly
def test_flipped_bytes_all_over_the_database(world: Path, nursery: Nursery, operations: Operations) -> None:
    draw, size = random.Random(1), database_file(world).stat().st_size
    places = [*range(200), *(draw.randrange(12288) for _ in range(40)), *(draw.randrange(size) for _ in range(120))]
    harm = []
    for place in places:
        try:
            flipped(nursery, operations, world, place)
        except AssertionError as error:
            harm.append(str(error)[:300])
            database_file(world).write_bytes(database_file(operations.world).read_bytes())
    assert not harm, "\n".join(harm)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_a_cut_database(world: Path, nursery: Nursery, operations: Operations, share: float) -> None:
    damage(database_file(world), cut=round(share * database_file(world).stat().st_size))
    done = nursery.run("db", "check", "--atlas", world)
    assert done.code == 4 and "atlas db rebuild" in done.err and "internal" not in done.err, done
    rebuilt(nursery, operations, world)


def with_log(world: Path, nursery: Nursery) -> None:
    """An edit more, that is in the log alone."""
    nursery.good("edit", "create", "more", "--scale", "2", "--of", "quiet", "--atlas", world, grow=100_000)
    assert wal(world).stat().st_size > 500


@pytest.mark.parametrize("fault", [{"cut": 0.0}, {"cut": 0.4}, {"cut": 0.95}, {"flip": 0.01}, {"flip": 0.5}])
def test_a_damaged_log(world: Path, nursery: Nursery, fault: dict[str, float]) -> None:
    """What the log had is in edits/ too: where it is lost that is told, and a rebuild brings it back."""
    with_log(world, nursery)
    damage(wal(world), **{how: round(share * wal(world).stat().st_size) for how, share in fault.items()})
    done = nursery.run("db", "check", "--atlas", world)
    assert done.code == 4 and "atlas db rebuild" in done.err and "internal" not in done.err, done
    nursery.good("db", "rebuild", "--atlas", world)
    assert check(world) == [] and "more" in {row[1] for row in contents(world)["edits"]}


SHARDS = ["scores", "manifest"]
SHARDS += [pytest.param(name, marks=pytest.mark.nightly) for name in ("maps", "examples", "exemplars", "decodings")]


@pytest.mark.parametrize("how", ["flip", "cut"])
@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_run(
    world: Path, nursery: Nursery, operations: Operations, ingesting: tuple[str, ...], name: str, how: str
) -> None:
    """The database answers as before; the check names the file; the job done again makes it good."""
    before = contents(world)
    folder = world / "runs" / operations.scored
    file = folder / (f"{name}.json" if name == "manifest" else f"{name}.parquet")
    damage(file, **{how: file.stat().st_size // 2})
    done = nursery.run("db", "check", "--atlas", world)
    assert done.code == 4 and str(file) in done.out and "internal" not in done.err, done
    again = nursery.run("db", "rebuild", "--atlas", world)
    assert again.code == 4 and str(file) in again.out, again
    assert not contents(world)["scores"]
    nursery.good(*ingesting, world)
    assert check(world) == []
    after = contents(world)
    for table in ("scores", "maps", "exemplars", "decodings", "examples"):
        assert len(after[table]) == len(before[table]) > 0


def test_a_damaged_run_is_made_good_by_its_job_alone(
    world: Path, nursery: Nursery, operations: Operations, ingesting: tuple[str, ...]
) -> None:
    before = contents(world)
    damage(world / "runs" / operations.scored / "scores.parquet", flip=2000)
    nursery.good(*ingesting, world)
    assert check(world) == [] and contents(world) == before


def test_damaged_vectors(world: Path, nursery: Nursery) -> None:
    before = contents(world)
    _, run = runs_of(world)
    damage(world / "runs" / run / "vectors.parquet", cut=900)
    assert nursery.run("db", "check", "--atlas", world).code == 4
    nursery.good(*INDEX, world)
    assert check(world) == [] and contents(world) == before


@pytest.mark.parametrize("fault", [{"flip": 100}, {"cut": 0}, {"cut": 200}])
@pytest.mark.parametrize("what", ["json", "safetensors"])
def test_a_damaged_edit(world: Path, nursery: Nursery, what: str, fault: dict[str, int]) -> None:
    """Not shown, not applied; removed and made again."""
    (file,) = (world / "edits").glob("noisy@1.json" if what == "json" else "*.safetensors")
    damage(file, **fault)
    for command in (("edit", "show", "noisy"), ("edit", "export", "noisy", world / "out"), ("db", "check")):
        done = nursery.run(*command, "--atlas", world)
        assert done.code == 4 and "internal" not in done.err and str(file.parent) in done.err + done.out, done
    assert not (world / "out").exists()
    nursery.good("edit", "rm", "noisy", "--atlas", world)
    nursery.good("edit", "create", "noisy", "--write-noise", "0.5", *DOG, "--atlas", world)
    assert check(world) == []


@pytest.mark.parametrize("fault", [{"flip": 30}, {"cut": 0}, {"cut": 100}])
def test_a_damaged_selection(world: Path, nursery: Nursery, fault: dict[str, int]) -> None:
    file = world / "selections" / "dogs.json"
    damage(file, **fault)
    for command in (("select", "show", "dogs"), ("select", "ls"), ("db", "check")):
        done = nursery.run(*command, "--atlas", world)
        assert done.code == 4 and str(file) in done.err + done.out and "internal" not in done.err, done
    nursery.good("select", "save", "dogs", "--replace", *DOG, "--atlas", world)
    assert check(world) == []


def a_number(file: Path) -> int:
    """Where the exponent of some sum of a method lies."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8 : 8 + size])
    chosen = [t for name, t in tensors.items() if name.startswith("contribution/") and t.get("dtype") in ("F32", "F64")]
    largest = max(chosen, key=lambda t: t["data_offsets"][1] - t["data_offsets"][0])
    return 8 + size + int(largest["data_offsets"][0]) + (3 if largest["dtype"] == "F32" else 7)


def test_a_changed_portion_of_an_interrupted_job_is_done_again(
    operations: Operations, nursery: Nursery, tmp_path: Path
) -> None:
    """A number that changed on the disk would be summed into every score."""
    operation, path = operations("ingest"), tmp_path / "x.atlas"
    command = operation.begin(path)
    for step in range(1, operation.steps):
        nursery.run(*command, kill=step * 4)
        portions = list(path.glob("runs/*/shards/*.safetensors"))
        if portions:
            break
    damage(portions[0], flip=a_number(portions[0]))
    operation.again(nursery, path, "flipped")
