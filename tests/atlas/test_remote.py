"""A bundle asked where it lies: the same answers as the atlas it becomes, and nothing else to read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from bundles import a_run, change, fill, older, said, sign, write

from atlas.api.user_sql import answered
from atlas.errors import AtlasError, IntegrityError, StoreUnavailable, UsageError
from atlas.share.attach import _open, attach_bundle
from atlas.share.export import Choice, export
from atlas.share.import_bundle import import_bundle
from atlas.store import schema
from atlas.store.database import READER_CONFIG, open_readonly

WITHOUT = {"edits", "changes", "indexes"}
TABLES = sorted(set(schema.metadata.tables) - WITHOUT)


@pytest.fixture(scope="module")
def bundle_once(tmp_path_factory: pytest.TempPathFactory, make_run: Any) -> Path:
    path = tmp_path_factory.mktemp("origin")
    return export(fill(path / "a.atlas", make_run), path / "bundle").folder


@pytest.fixture
def bundle(bundle_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_once, tmp_path / "bundle"))


def rows(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[list[str], list[str], list[Any]]:
    found = connection.execute(f'SELECT * FROM "{table}" ORDER BY ALL')
    return [d[0] for d in found.description], [str(d[1]) for d in found.description], found.fetchall()


@pytest.mark.parametrize("form", ["now", "older", "part"])
def test_it_answers_as_the_atlas_that_it_becomes(bundle: Path, tmp_path: Path, form: str) -> None:
    if form == "older":
        older(a_run(bundle))
        sign(bundle)
    if form == "part":
        import_bundle(bundle, tmp_path / "whole.atlas")
        bundle = export(tmp_path / "whole.atlas", tmp_path / "part", Choice(concept=("cat", "horse"))).folder
    import_bundle(bundle, tmp_path / "new.atlas")
    with attach_bundle(str(bundle)) as there, open_readonly(tmp_path / "new.atlas") as here:
        for table in TABLES:
            assert rows(there, table) == rows(here, table), table
        assert len(rows(there, "scores")[2]) == (48 if form == "part" else 96)
        assert {t[0] for t in there.execute("SHOW TABLES").fetchall()} == set(TABLES)


def test_one_statement_as_atlas_sql_asks_it(bundle: Path) -> None:
    query = (
        "SELECT c.name, count(*) FROM maps JOIN scores USING (map_id) JOIN concepts c USING (concept_id) GROUP BY ALL"
    )
    with attach_bundle(str(bundle)) as connection:
        found = answered(connection, f"{query} ORDER BY ALL", rows=10).rows
        assert found.to_pylist() == [
            {"name": n, "count_star()": c} for n, c in (("cat", 32), ("dog", 16), ("horse", 16))
        ]
        with pytest.raises(UsageError, match="only reads"):
            answered(connection, "COPY (SELECT 1) TO 'x.parquet'", rows=1)


ESCAPES = (
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('{bundle}/bundle.json')",
    "SELECT * FROM read_text('{bundle}/../secret.txt')",
    "SELECT * FROM read_parquet('{bundle}/runs/*/scores.parquet')",
    "SELECT * FROM read_parquet('{run}/stranger.parquet')",
    "SELECT * FROM glob('{bundle}/*')",
    "SELECT * FROM 'https://example.org/x.parquet'",
    "COPY (SELECT 1) TO '{bundle}/new.parquet'",
    "ATTACH '{bundle}/../x.duckdb'",
    "EXPORT DATABASE '{bundle}/../x'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '1TB'",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET allowed_paths",
    "SET lock_configuration = false",
    "SET autoinstall_known_extensions = true",
    "SELECT * FROM TABLES",
)


@pytest.mark.parametrize("statement", ESCAPES)
def test_nothing_but_the_bundle_can_be_read_and_no_setting_changed(bundle: Path, statement: str) -> None:
    run = a_run(bundle)
    (bundle.parent / "secret.txt").write_text("secret")
    shutil.copy(run / "scores.parquet", run / "stranger.parquet")
    with attach_bundle(str(bundle)) as connection:
        with pytest.raises(duckdb.Error, match=r"disabled|locked|Cannot|does not exist|allowed"):
            connection.execute(statement.format(bundle=bundle, run=run)).fetchall()
        listed = f"SELECT count(*) FROM read_parquet('{(run / 'scores.parquet').resolve()}')"
        assert connection.execute(listed).fetchall() == [(48,)], "what the bundle lists can be read"


def test_links_of_a_bundle_are_not_followed(bundle: Path) -> None:
    file = a_run(bundle) / "scores.parquet"
    shutil.move(file, bundle.parent / "real.parquet")
    file.symlink_to(bundle.parent / "real.parquet")
    with pytest.raises(IntegrityError, match="is a link"), attach_bundle(str(bundle)):
        pass


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (lambda b: change(b / "bundle.json", schema="9999"), StoreUnavailable, "newer"),
        (lambda b: (b / "bundle.json").unlink(), UsageError, "no bundle"),
        (lambda b: (b / "bundle.json").write_text("{"), IntegrityError, "damaged"),
        (lambda b: change(a_run(b) / "manifest.json", concepts=[]), IntegrityError, "does not match"),
        (lambda b: (change(a_run(b) / "manifest.json", run=3), resign(b)), IntegrityError, "damaged|manifest"),
        (lambda b: (change(a_run(b) / "manifest.json", files=None), resign(b)), IntegrityError, "damaged"),
        (lambda b: (change(a_run(b) / "manifest.json", schema=None), resign(b)), IntegrityError, "damaged"),
        (lambda b: (a_run(b) / "scores.parquet").unlink(), IntegrityError, "is missing"),
        (lambda b: os.truncate(a_run(b) / "scores.parquet", 60), IntegrityError, "damaged"),
        (lambda b: shutil.copy(a_run(b) / "scores.parquet", a_run(b) / "maps.parquet"), IntegrityError, "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_bundle_is_refused(bundle: Path, spoil: Any, error: type[AtlasError], match: str) -> None:
    spoil(bundle)
    with pytest.raises(error, match=match), attach_bundle(str(bundle)):
        pass


def resign(bundle: Path) -> None:
    from bundles import entry

    whole = said(bundle)
    write(bundle / "bundle.json", whole | {"files": {n: entry(bundle / n) for n in whole["files"]}})


@pytest.mark.parametrize("location", ["http://127.0.0.1:9/b", "https://example.org/b/", "s3://bucket/b"])
def test_a_url_without_the_extension_says_what_to_type(location: str) -> None:
    """No extension is fetched: where httpfs is not installed, this is one line, at once."""
    found = duckdb.sql("SELECT installed FROM duckdb_extensions() WHERE extension_name = 'httpfs'").fetchall()
    if found == [(True,)]:
        pytest.skip("httpfs is installed here")
    with pytest.raises(AtlasError, match=r"INSTALL httpfs.*atlas pull") as caught, attach_bundle(location):
        pass
    assert "\n" not in str(caught.value)


class Installed:
    """A connection on which httpfs seems to be loaded: what is behind a URL is read by the same SQL as a folder."""

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self._connection = connection

    def execute(self, statement: str) -> Any:
        return self._connection.execute("SELECT 1" if statement == "LOAD httpfs" else statement)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_a_url_is_read_as_a_folder_is(bundle: Path, tmp_path: Path) -> None:
    """All but the transport, which needs the extension."""
    import_bundle(bundle, tmp_path / "new.atlas")
    with duckdb.connect(config=dict(READER_CONFIG)) as connection, open_readonly(tmp_path / "new.atlas") as here:
        _open(str(bundle), Installed(connection), remote=True)
        for table in TABLES:
            assert rows(connection, table) == rows(here, table), table
        with pytest.raises(duckdb.Error, match="disabled"):
            connection.execute(f"SELECT * FROM read_text('{bundle}/bundle.json')")
    change(a_run(bundle) / "manifest.json", schema="0003")
    with duckdb.connect() as connection, pytest.raises(IntegrityError, match="does not match"):
        _open(str(bundle), Installed(connection), remote=True)
    for name, error, match in (
        (f"runs/{a_run(bundle).name}/manifest.json", IntegrityError, "lacks files"),
        ("bundle.json", UsageError, "there is no bundle at"),
    ):
        (bundle / name).unlink()
        with duckdb.connect() as connection, pytest.raises(error, match=match):
            _open(str(bundle), Installed(connection), remote=True)


@pytest.mark.parametrize("location", ["ftp://x/b", "http://x/b?token=1", "https://x/a b", "file:///etc"])
def test_other_locations_are_refused(location: str) -> None:
    with pytest.raises(UsageError, match="neither a folder nor an http"), attach_bundle(location):
        pass


def test_an_empty_bundle_has_empty_tables(empty: Path, tmp_path: Path) -> None:
    folder = export(empty, tmp_path / "bundle").folder
    assert json.loads((folder / "bundle.json").read_text())["runs"] == []
    with attach_bundle(str(folder)) as connection:
        assert [rows(connection, table)[2] for table in TABLES] == [[]] * len(TABLES)
