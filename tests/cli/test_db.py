"""`atlas db`: data on stdout, messages on stderr, exit codes through the errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from atlas.errors import IntegrityError, StoreUnavailable
from atlas.store import create, database, engine
from cli.db import app


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    path = tmp_path / "x.atlas"
    create.init(path)
    return path


def run(*arguments: object) -> tuple[str, str]:
    """stdout and stderr of a command; its error, if it has one, is raised."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_path_prints_the_file_whether_or_not_it_is_there(tmp_path: Path) -> None:
    assert run("path", "--atlas", tmp_path / "none")[0] == f"{tmp_path / 'none' / 'atlas.duckdb'}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_atlas(atlas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_ATLAS", str(atlas))
    assert run("path")[0] == f"{database.database_file(atlas)}\n"


def test_check_of_a_sound_atlas_prints_no_data(atlas: Path) -> None:
    out, messages = run("check", "-a", atlas)
    assert out == ""
    assert "agrees with itself" in messages


def test_check_prints_its_findings_and_fails_with_exit_code_4(atlas: Path) -> None:
    with engine.connect_writer(atlas) as connection:
        connection.exec_driver_sql("INSERT INTO scores VALUES (7, 0, 0, 1, 1)")
    done = CliRunner().invoke(app, ["check", "-a", str(atlas)])
    assert isinstance(done.exception, IntegrityError)
    assert done.exception.exit_code == 4
    assert "(1 finding)" in str(done.exception)
    assert done.stdout == "scores: 1 map_id (the first is 7) are not in maps\n"


def test_backup_prints_the_copy(atlas: Path) -> None:
    out, _messages = run("backup", "-a", atlas)
    copy = Path(out.strip())
    assert copy.parent == atlas / "backups"
    assert copy.read_bytes() == database.database_file(atlas).read_bytes()


def test_upgrade_of_a_current_atlas_says_so(atlas: Path) -> None:
    out, messages = run("upgrade", "-a", atlas)
    assert out == ""
    assert "already" in messages


def test_rebuild_after_the_database_is_gone(atlas: Path) -> None:
    database.database_file(atlas).unlink()
    _out, messages = run("rebuild", "-a", atlas)
    assert "stored 0 runs and 0 edits" in messages
    run("check", "-a", atlas)


def test_rebuild_names_what_it_left_out(atlas: Path) -> None:
    (atlas / "runs" / ("ab" * 32)).mkdir()
    done = CliRunner().invoke(app, ["rebuild", "-a", str(atlas)])
    assert isinstance(done.exception, IntegrityError)
    assert "the run was interrupted" in done.stdout


NEEDING_ONE = [name for name in typer.main.get_command(app).commands if name != "path"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", NEEDING_ONE)
def test_without_an_atlas_every_command_says_what_to_type(tmp_path: Path, command: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"there is no atlas at") as caught:
        run(command, "-a", tmp_path / "none")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "none").exists()
