"""`atlas push` and `atlas pull`, against a stand-in of the Hub: the real client, over real HTTP, in its own process
(whether the client may go online is decided when it is imported)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from bundles import fill, tree
from hub_standin import TOKEN, Hub, Repository, standin

from atlas.maintain.check import check
from atlas.share.export import export

ROOT = Path(__file__).resolve().parents[2]
NAME = "ada/dogs"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, make_run: Any) -> Path:
    return fill(tmp_path_factory.mktemp("origin") / "a.atlas", make_run)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with standin() as found:
        yield found
        assert found.unknown == []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def atlas(hub: Hub, home: Path) -> Any:
    """Run `atlas ARGUMENTS` with the stand-in as the Hub: exit code, stdout, stderr."""

    def run(*arguments: object, **environment: str | None) -> tuple[int, str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        mine: Mapping[str, str | None] = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(home),
            "TMPDIR": str(home.parent),
            "HOME": str(home),
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_ETAG_TIMEOUT": "5",
            **environment,
        }
        whole = kept | {k: v for k, v in mine.items() if v is not None}
        command = [sys.executable, "-m", "cli.main", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=whole, timeout=120)
        for text in (done.stdout, done.stderr):
            assert TOKEN not in text
        return done.returncode, done.stdout, done.stderr

    return run


def pushed(hub: Hub) -> Repository:
    return hub.repositories[NAME]


def test_what_is_pushed_can_be_pulled_the_same(
    atlas: Any, hub: Hub, origin: Path, home: Path, tmp_path: Path, dump: Any
) -> None:
    code, out, err = atlas("push", NAME, "--message", "six maps", "--atlas", origin, "--format", "csv")
    assert code == 0, err
    assert len(out.splitlines()) == 7  # two runs, three edits, a selection, and what they are
    commit = pushed(hub).head
    assert f"pushed {NAME}@{commit}" in err
    assert pushed(hub).private and pushed(hub).messages[-1] == "six maps"
    local = tree(export(origin, tmp_path / "bundle").folder)
    assert {n: c for n, c in pushed(hub).commits[commit].items() if n != ".gitattributes"} == local

    new = tmp_path / "new.atlas"
    code, out, err = atlas("pull", NAME, "--atlas", new, "--format", "csv")
    assert code == 0, err
    assert f"fetched {NAME}@{commit}" in err
    assert out.count(",stored,") == 6
    assert tree(export(new, tmp_path / "again").folder) == local
    assert check(new) == []
    assert not list(new.glob(".pull*")) and not list(tmp_path.glob("neuron-atlas-push-*"))
    for folder in (tmp_path, origin):
        for name, content in tree(folder).items():
            assert TOKEN.encode() not in content, name


def test_the_next_push_replaces_the_first_and_an_old_revision_stays(
    atlas: Any, hub: Hub, origin: Path, tmp_path: Path
) -> None:
    assert atlas("push", NAME, "--public", "--atlas", origin)[0] == 0
    assert not pushed(hub).private
    first = pushed(hub).head
    assert atlas("push", NAME, "--concept", "dog", "--no-edits", "--atlas", origin)[0] == 0
    files = pushed(hub).commits[pushed(hub).head]
    assert {n.split("/")[0] for n in files} == {".gitattributes", "README.md", "bundle.json", "runs"}
    assert len({n.split("/")[1] for n in files if n.startswith("runs/")}) == 1
    code, out, _ = atlas("pull", NAME, "--revision", first, "--atlas", tmp_path / "x.atlas", HF_TOKEN=None)
    assert code == 0 and out.count('"stored"') == 6, "a public one needs no token"


@pytest.mark.parametrize(("environment", "read_only", "status"), [({"HF_TOKEN": None}, False, 401), ({}, True, 403)])
def test_without_the_right_nothing_is_pushed(
    atlas: Any, hub: Hub, origin: Path, environment: dict[str, Any], read_only: bool, status: int
) -> None:
    hub.read_only = read_only
    code, out, err = atlas("push", NAME, "--atlas", origin, **environment)
    assert (code, out) == (1, "")
    assert f"({status})" in err and "set HF_TOKEN" in err and "Traceback" not in err
    assert hub.repositories == {}


@pytest.mark.parametrize("environment", [{}, {"HF_TOKEN": None}, {"HF_TOKEN": "hf_wrong"}])
def test_a_missing_repository_is_a_clear_request(
    atlas: Any, hub: Hub, tmp_path: Path, environment: dict[str, Any]
) -> None:
    code, _, err = atlas("pull", NAME, "--atlas", tmp_path / "x.atlas", **environment)
    assert code == 2
    assert f"there is no dataset {NAME} at {hub.url}" in err and "Traceback" not in err
    assert not (tmp_path / "x.atlas").exists()


def test_a_repository_without_a_bundle_and_an_unknown_revision(atlas: Any, hub: Hub, tmp_path: Path) -> None:
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit({"README.md": b"# another thing"}, "first")
    code, _, err = atlas("pull", NAME, "--atlas", tmp_path / "x.atlas")
    assert code == 2 and "is not a bundle" in err
    code, _, err = atlas("pull", NAME, "--revision", "v9", "--atlas", tmp_path / "x.atlas")
    assert code == 2 and "no such revision" in err


def test_what_was_altered_on_the_hub_is_refused_and_what_was_mended_is_fetched_again(
    atlas: Any, hub: Hub, origin: Path, tmp_path: Path
) -> None:
    hub.repositories[NAME] = Repository()
    files = tree(export(origin, tmp_path / "bundle").folder)
    name = next(n for n in files if n.endswith("scores.parquet"))
    altered = files[name][:-9] + bytes([files[name][-9] ^ 1]) + files[name][-8:]
    hub.repositories[NAME].commit(files | {name: altered}, "bad")
    new = tmp_path / "new.atlas"
    code, out, err = atlas("pull", NAME, "--atlas", new)
    assert (code, out) == (4, "") and "does not match bundle.json (sha256)" in err
    assert not new.exists()
    hub.repositories[NAME].commit(files, "good")
    assert atlas("pull", NAME, "--atlas", new)[0] == 0
    assert check(new) == []


def test_files_that_no_bundle_has_are_not_even_fetched(atlas: Any, hub: Hub, origin: Path, tmp_path: Path) -> None:
    hub.repositories[NAME] = Repository()
    others = {"atlas.duckdb": b"x", "vectors/a.faiss": b"x", "run.py": b"x"}
    hub.repositories[NAME].commit(tree(export(origin, tmp_path / "bundle").folder) | others, "more")
    assert atlas("pull", NAME, "--atlas", tmp_path / "new.atlas")[0] == 0
    assert not [path for path in hub.asked if path.endswith(tuple(others))]


def test_offline_and_without_a_network(atlas: Any, hub: Hub, origin: Path, tmp_path: Path) -> None:
    for command in (("push", NAME, "--atlas", origin), ("pull", NAME, "--atlas", tmp_path / "x.atlas")):
        code, _, err = atlas(*command, HF_HUB_OFFLINE="1")
        assert code == 2 and "HF_HUB_OFFLINE is set" in err
        code, _, err = atlas(*command, HF_ENDPOINT="http://127.0.0.1:9")
        assert code == 1 and f"cannot reach {NAME} at http://127.0.0.1:9" in err and "Traceback" not in err
    assert hub.asked == []


@pytest.mark.parametrize("name", ["dogs", "ada/dogs/x", "ada/../x", "-a/b", "ada/d ogs", ""])
def test_a_name_that_no_repository_has(atlas: Any, hub: Hub, origin: Path, name: str) -> None:
    code, _, err = atlas("push", "--atlas", origin, "--", name)
    assert code == 2 and "write OWNER/NAME" in err
    assert hub.asked == []


def test_a_bundle_that_does_not_change_is_pushed_as_the_same_files(atlas: Any, hub: Hub, origin: Path) -> None:
    assert atlas("push", NAME, "--atlas", origin)[0] == 0
    first = pushed(hub).commits[pushed(hub).head]
    assert atlas("push", NAME, "--atlas", origin)[0] == 0
    assert pushed(hub).commits[pushed(hub).head] == first
