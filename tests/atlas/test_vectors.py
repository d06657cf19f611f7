"""Nearest neurons: against brute force, for every kind of index, and with an index that is damaged in every way."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vector_runs import DIMENSION, brute, random_vectors, store_vectors

from atlas.api.atlas import Atlas
from atlas.errors import UsageError
from atlas.neurons import Neuron
from atlas.store import create, engine
from atlas.store.database import open_readonly
from atlas.store.schema import indexes as index_table
from atlas.vectors import faiss_files, nearest

WIDTH, LAYERS = 50, 4
ROWS = WIDTH * LAYERS
FOUND = random_vectors(ROWS)
MODEL = {"name": "tiny", "revision": None, "fingerprint": "f" * 64, "model_type": "llava", "layers": LAYERS}
MODEL |= {"width": WIDTH, "d_model": 4, "vocabulary": 32, "created_at": "2026-01-01T00:00:00"}

Answer = list[tuple[int, float]]


@pytest.fixture(autouse=True)
def no_loaded_index() -> None:
    nearest.forget_loaded()


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("vectors") / "built.atlas"
    create.init(path)
    run = store_vectors(path, FOUND, width=WIDTH, model=MODEL)
    faiss_files.build_index(path, run)
    return path, run


@pytest.fixture
def built(built_once: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """An atlas with one run of vectors and its index; this test's own copy."""
    return Path(shutil.copytree(built_once[0], tmp_path / "own.atlas")), built_once[1]


def answer(path: Path, run: str, query: np.ndarray, top: int = 5, skip: Neuron | None = None) -> Answer:
    hits = nearest.nearest(path, run, query, top, skip)
    columns = (hits[name].to_pylist() for name in ("layer", "neuron", "similarity"))
    return [(layer * WIDTH + neuron, similarity) for layer, neuron, similarity in zip(*columns, strict=True)]


def same(found: Answer, wanted: Answer) -> bool:
    rows = [row for row, _ in found] == [row for row, _ in wanted]
    return rows and np.allclose([s for _, s in found], [s for _, s in wanted], rtol=0, atol=1e-7)


QUERY = np.random.default_rng(5).standard_normal(DIMENSION).astype(np.float32)


@pytest.mark.parametrize("kind", [None, "flat", "fp16", "ivf"])
@pytest.mark.parametrize("top", [1, 5, 300])
def test_every_kind_answers_as_brute_force(built: tuple[Path, str], kind: str | None, top: int) -> None:
    path, run = built
    if kind is not None:
        faiss_files.build_index(path, run, kind)
        assert (loaded := nearest.usable(path, run)) is not None and loaded.kind == kind
    else:
        with engine.connect_writer(path) as connection:
            connection.execute(index_table.delete())
        assert nearest.usable(path, run) is None
    for query in (QUERY, FOUND[3], -FOUND[11]):
        found, wanted = answer(path, run, query, top), brute(FOUND, query, top)
        if kind == "ivf":  # it looks into some of the lists only, but what it says of a neuron is right
            cosine = dict(brute(FOUND, query, ROWS))
            assert all(abs(cosine[row] - similarity) < 1e-6 for row, similarity in found)
            assert len(found) == len(wanted)
            assert len({row for row, _ in found} & {row for row, _ in wanted}) >= 0.8 * len(wanted)
            assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
        else:
            assert same(found, wanted)


@pytest.mark.parametrize("kind", ["flat", "fp16"])
def test_equal_vectors_come_in_the_order_of_their_addresses_and_the_neuron_itself_is_left_out(
    built: tuple[Path, str], kind: str
) -> None:
    path, run = built
    faiss_files.build_index(path, run, kind)
    found = answer(path, run, FOUND[3], 4, skip=Neuron("language", 0, 3))
    assert [row for row, _ in found] == [ROWS // 2 + i for i in range(4)]
    assert same(found, brute(FOUND, FOUND[3], 4, skip=3))


def test_vectors_that_are_all_alike_are_answered_like_any_other(tmp_path: Path) -> None:
    """More ties than candidates are first fetched: the first by address are wanted, whatever the index finds first."""
    create.init(tmp_path / "alike.atlas")
    alike = np.repeat(random_vectors(8)[2:3], ROWS, axis=0)
    run = store_vectors(tmp_path / "alike.atlas", alike, width=WIDTH, model=MODEL)
    for kind in ("flat", "fp16"):
        faiss_files.build_index(tmp_path / "alike.atlas", run, kind)
        assert [row for row, _ in answer(tmp_path / "alike.atlas", run, QUERY, 3)] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["flat", "fp16"])
def test_vectors_nearer_to_each_other_than_half_precision_tells_are_told_apart(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "close.atlas"
    create.init(path)
    generator = np.random.default_rng(6)
    close = generator.standard_normal(DIMENSION) + 3e-4 * generator.standard_normal((ROWS, DIMENSION))
    close = faiss_files.unit(close)
    run = store_vectors(path, close, width=WIDTH, model=MODEL)
    faiss_files.build_index(path, run, kind)
    for seed in range(3):
        query = close[0] + 0.5 * np.random.default_rng(seed).standard_normal(DIMENSION)
        assert [row for row, _ in answer(path, run, query)] == [row for row, _ in brute(close, query, 5)]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip(place: float) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(place * (len(content) - 1))] ^= 0x10
        file.write_bytes(content)

    return change


def other_rows(count: int, dimension: int) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        import faiss

        index = faiss.IndexFlatIP(dimension)
        index.add(random_vectors(count, 9, dimension))
        faiss.write_index(index, str(file))

    return change


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b"") and None,
    "cut": cut,
    **{f"flipped at {place}": flip(place) for place in (0.0, 0.01, 0.3, 0.5, 0.9, 1.0)},
    "of another run": other_rows(ROWS, DIMENSION),
    "of other rows": other_rows(ROWS - 1, DIMENSION),
    "of another dimension": other_rows(ROWS, DIMENSION * 2),
    "no index at all": lambda file: file.write_bytes(b"hello, this is not an index") and None,
}


def one_warning(ask: Callable[[], Answer]) -> tuple[Answer, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = ask()
    assert len(caught) == 1 and caught[0].category is nearest.IndexIgnored
    return found, str(caught[0].message)


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_index_is_never_used_and_is_made_again(built: tuple[Path, str], damage: str) -> None:
    path, run = built
    file = faiss_files.index_file(path, run)
    whole = file.read_bytes()
    assert same(answer(path, run, QUERY), brute(FOUND, QUERY, 5))  # it is loaded now, and must be looked at again
    DAMAGES[damage](file)
    found, message = one_warning(lambda: answer(path, run, QUERY))
    assert same(found, brute(FOUND, QUERY, 5))
    assert run[:8] in message and "exact search" in message
    assert file.read_bytes() == whole
    assert same(answer(path, run, QUERY), brute(FOUND, QUERY, 5))  # a warning would be an error
    assert nearest.usable(path, run) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 64},
        {"bytes": 5},
        {"rows": ROWS + 1},
        {"dimension": DIMENSION + 1},
        {"content": "0"},
        {"kind": "fp16"},
        {"kind": "hnsw"},
    ],
    ids=str,
)
def test_a_row_that_does_not_fit_the_file_is_not_believed(built: tuple[Path, str], change: dict[str, Any]) -> None:
    path, run = built
    with engine.connect_writer(path) as connection:
        connection.execute(index_table.update().values(**change))
    found, _ = one_warning(lambda: answer(path, run, QUERY))
    assert same(found, brute(FOUND, QUERY, 5))
    assert same(answer(path, run, QUERY), brute(FOUND, QUERY, 5))


def test_a_row_made_to_fit_another_runs_file_is_found_out(built: tuple[Path, str]) -> None:
    path, run = built
    other = store_vectors(path, random_vectors(ROWS, 3), width=WIDTH, seed=1, model=MODEL)
    row = faiss_files.build_index(path, other)
    shutil.copyfile(faiss_files.index_file(path, other), faiss_files.index_file(path, run))
    with engine.connect_writer(path) as connection:
        mine = index_table.update().where(index_table.c.run_id == run)
        connection.execute(mine.values(sha256=row["sha256"], bytes=row["bytes"]))
    found, message = one_warning(lambda: answer(path, run, QUERY))
    assert same(found, brute(FOUND, QUERY, 5)) and "other vectors" in message


def test_vectors_that_changed_make_the_index_stale(built: tuple[Path, str]) -> None:
    path, run = built
    assert same(answer(path, run, QUERY), brute(FOUND, QUERY, 5))
    changed = FOUND.copy()
    changed[20] = QUERY / np.linalg.norm(QUERY)
    with engine.connect_writer(path) as connection:
        new = str(changed[20].tolist())
        connection.exec_driver_sql(f"UPDATE vectors SET vector = {new}::FLOAT[] WHERE layer = 0 AND neuron = 20")
    with open_readonly(path) as connection:
        assert faiss_files.state_of(connection, path, run)["state"] == faiss_files.STALE
    found, message = one_warning(lambda: answer(path, run, QUERY))
    assert found[0][0] == 20 and same(found, brute(changed, QUERY, 5))
    assert "the vectors have changed since it was built" in message


def test_a_run_that_is_stored_anew_has_no_index_and_no_warning(built: tuple[Path, str]) -> None:
    path, run = built
    other = random_vectors(ROWS, 8)
    assert store_vectors(path, other, width=WIDTH, model=MODEL) == run
    assert same(answer(path, run, QUERY), brute(other, QUERY, 5))
    assert nearest.usable(path, run) is None


def test_a_file_that_no_row_names_is_never_read(built: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    path, run = built
    with engine.connect_writer(path) as connection:
        connection.execute(index_table.delete())
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("read"))
    assert same(answer(path, run, QUERY), brute(FOUND, QUERY, 5))


def test_no_byte_is_given_to_faiss_before_its_sum_is_right(
    built: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    path, run = built
    flip(0.5)(faiss_files.index_file(path, run))
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("read"))
    found, _ = one_warning(lambda: answer(path, run, QUERY))
    assert same(found, brute(FOUND, QUERY, 5))


def test_where_nothing_can_be_written_the_warning_comes_once_and_the_answers_stay_right(
    built: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run = built
    cut(faiss_files.index_file(path, run))

    def refused(*_: Any) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(nearest, "build_index", refused)
    found, _ = one_warning(lambda: answer(path, run, QUERY))
    assert same(found, brute(FOUND, QUERY, 5))
    assert same(answer(path, run, QUERY), brute(FOUND, QUERY, 5))  # no second warning of the same state


def test_a_loaded_index_is_not_read_again_until_something_changes(
    built: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run = built
    assert (first := nearest.usable(path, run)) is not None
    monkeypatch.setattr(nearest, "problem_of", lambda *_: pytest.fail("looked at again"))
    assert nearest.usable(path, run) is first
    monkeypatch.undo()
    os.utime(faiss_files.index_file(path, run), ns=(1, 1))
    assert nearest.usable(path, run) is not first


def test_an_interrupted_build_leaves_the_old_index_in_use(
    built: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    path, run = built

    def killed(index: Any, name: str) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(faiss, "write_index", killed)
    with pytest.raises(KeyboardInterrupt):
        faiss_files.build_index(path, run, "fp16")
    assert (loaded := nearest.usable(path, run)) is not None and loaded.kind == "flat"


def test_the_kind_follows_the_size() -> None:
    assert faiss_files.kind_for(352_256, 384) == "flat"
    assert faiss_files.kind_for(2**18, 1024) == "flat" and faiss_files.kind_for(2**18 + 1, 1024) == "fp16"
    assert faiss_files.kind_for(2**21, 1024) == "fp16" and faiss_files.kind_for(2**21 + 1, 1024) == "ivf"


def test_what_cannot_be_asked_says_so(built: tuple[Path, str]) -> None:
    path, run = built
    with pytest.raises(UsageError, match="no kind of index called 'hnsw'"):
        faiss_files.build_index(path, run, "hnsw")
    with pytest.raises(UsageError, match="has no vectors"):
        faiss_files.build_index(path, "0" * 32)
    with pytest.raises(UsageError, match="9 dimensions"):
        answer(path, run, np.ones(9))
    with pytest.raises(UsageError, match="zeros"):
        answer(path, run, np.zeros(DIMENSION))
    with engine.connect_writer(path) as connection:
        connection.execute(index_table.delete())
    with pytest.raises(UsageError, match="9 dimensions"):
        answer(path, run, np.ones(9))


def test_similar_neurons(built: tuple[Path, str]) -> None:
    path, _ = built
    near = Atlas(path).similar("0/3", "decoded", top=6)
    wanted = brute(FOUND, FOUND[3], 6, skip=3)
    assert [n.layer * WIDTH + n.index for n in near.neurons] == [row for row, _ in wanted]
    assert near.table.column_names == ["component", "layer", "neuron", "similarity", "tokens", "concept"]
    assert len(near) == 6 and near.provenance["space"] == "decoded"
    with pytest.raises(UsageError, match="cannot be compared in the space 'decoded'"):
        Atlas(path).similar("0/7", "decoded")
    with pytest.raises(UsageError, match="no neuron 9/9; tiny has neurons 0/0 to 3/49"):
        Atlas(path).similar("9/9", "decoded")
    with pytest.raises(UsageError, match="`atlas index build --space profile`"):
        Atlas(path).similar("0/3", "profile")
    with pytest.raises(UsageError, match="no space called 'profil'; did you mean 'profile'"):
        Atlas(path).similar("0/3", "profil")


def test_of_several_runs_of_a_space_the_newest_counts_and_is_named(built: tuple[Path, str]) -> None:
    path, run = built
    other = random_vectors(ROWS, 4)
    newer = store_vectors(path, other, width=WIDTH, seed=2, model=MODEL)
    near = Atlas(path).similar("0/3", "decoded", top=1)
    assert near.provenance["run"] == newer
    assert near.provenance["assumed"] == [f"run={newer[:8]} (the newest of 2; `atlas index status` lists them)"]
    assert Atlas(path).similar("0/3", "decoded", top=1, run=run[:6]).provenance["run"] == run


def test_rows_of_length_one_or_zeros() -> None:
    found = faiss_files.unit(np.array([[3.0, 4.0], [0.0, 0.0], [np.inf, 1.0], [1e-30, 0.0]]))
    assert np.allclose(found, [[0.6, 0.8], [0, 0], [0, 0], [1, 0]]) and found.dtype == np.float32
