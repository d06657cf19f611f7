"""A bundle unpacked as an atlas of its own, and checked as one, before anything of it is stored."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.edits.edit import Edit
from atlas.errors import AtlasError, IntegrityError
from atlas.share.listing import (
    LABEL,
    LARGEST_JSON,
    NOT_OURS,
    REVISION,
    Listing,
    plain_file,
    plain_json,
    read_listing,
    small_file,
)
from atlas.share.parquet_bounds import require_bounded
from atlas.store.run_manifest import NAME as MANIFEST
from atlas.store.run_manifest import SHARDS, folder_of

_CHUNK = 1 << 20
_LAYERS, _WIDTH = 10_000, 50_000_000
"""No model has more; what a bundle claims of its own is held to these, so that it cannot claim any number of rows."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A bundle that was checked. folder: an atlas of its own. manifests: by run, in the order in which they finished.
    edits: by `name@version`."""

    folder: Path
    listing: Listing
    manifests: Mapping[str, dict[str, Any]]
    edits: Mapping[str, Edit]


def unpack(bundle: Path, folder: Path) -> Unpacked:
    """Copy a bundle into an empty folder, and hold it to everything that an atlas must be.

    What is checked is the copy: what happens to the bundle meanwhile changes nothing.

    Raises:
        UsageError: no bundle there.
        StoreUnavailable: a newer program wrote it.
        IntegrityError: it is not what its sums say, or impossible as an atlas.
    """
    listing = read_listing(bundle)
    sources = {name: plain_file(bundle, name) for name in sorted(listing.files)}
    for name, file in sources.items():
        if file.stat().st_size != listing.files[name][0]:
            raise _altered(file, "size")
    needed = sum(size for size, _ in listing.files.values())
    if needed > shutil.disk_usage(folder).free:
        raise AtlasError(
            f"the bundle has {needed / 1e6:,.0f} MB, more than is free where the atlas is; free some space"
        )
    for name, file in sources.items():
        _copy(file, folder / name, *listing.files[name])
    with _blamed(bundle, folder):
        manifests = {run: _manifest(folder, listing, run) for run in listing.runs}
        require_bounded([folder / name for name in sorted(listing.files) if name.endswith(".parquet")])
        ordered = dict(sorted(manifests.items(), key=lambda item: (item[1]["run"]["finished_at"], item[0])))
        for run, manifest in ordered.items():
            _require_run(folder_of(folder, run), manifest)
        edits = {label: _edit(folder, label) for label in listing.edits}
        _require_atlas(folder, ordered, edits)
    return Unpacked(folder, listing, ordered, edits)


def _copy(source: Path, target: Path, size: int, digest: str) -> None:
    """Copy a file and its sum in one pass; no link is followed, and no more is read than was announced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    left = size + 1
    handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as reading, target.open("wb") as writing:
        while left > 0 and (chunk := reading.read(min(_CHUNK, left))):
            found.update(chunk)
            writing.write(chunk)
            left -= len(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    if left != 1 or found.hexdigest() != digest:
        raise _altered(source, "sha256")


def _altered(file: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{file} is not what bundle.json says ({what}), it was changed or cut; fetch it again")


@contextmanager
def _blamed(bundle: Path, folder: Path) -> Iterator[None]:
    """Whatever goes wrong in the block is the bundle's fault: nothing else is read there. Its copy goes by its name."""
    import duckdb
    import pyarrow as pa
    import sqlalchemy as sa

    def said(error: Exception) -> str:
        return " ".join(str(error).replace(str(folder), str(bundle)).split())[:600]

    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(said(error)) from error
    except duckdb.OutOfMemoryException as error:
        raise AtlasError(f"checking the bundle {bundle} needs more memory than there is") from error
    except OSError as error:
        if error.errno is not None:  # the disk's; Arrow says it of a file that is not a Parquet, without a number
            raise
        raise IntegrityError(f"the bundle {bundle} is damaged: {said(error)}") from error
    except (*NOT_OURS, duckdb.Error, pa.ArrowException, sa.exc.SQLAlchemyError) as error:
        raise IntegrityError(f"the bundle {bundle} is damaged: {type(error).__name__}: {said(error)}") from error


def _manifest(folder: Path, listing: Listing, run: str) -> dict[str, Any]:
    """The manifest of a run, which must name the files that the bundle has of it, with the same sums."""
    from atlas.store.run_manifest import read_manifest

    file = folder_of(folder, run) / MANIFEST
    said = plain_json(small_file(file), str(file))
    revision = said.get("schema")
    if not isinstance(revision, str) or not REVISION.fullmatch(revision):
        raise IntegrityError(f"{file} names no schema")
    manifest = read_manifest(file.parent, verify=False)
    theirs = {f"runs/{run}/{name}": (e["bytes"], e["sha256"]) for name, e in manifest["files"].items()}
    ours = {n: about for n, about in listing.files.items() if n.startswith(f"runs/{run}/") and not n.endswith(MANIFEST)}
    if theirs != ours:
        raise IntegrityError(f"{file} and bundle.json name other files, or other sums of them")
    if not all(type(e["rows"]) is int and 0 <= e["rows"] < 1 << 40 for e in manifest["files"].values()):
        raise IntegrityError(f"{file} has an impossible number of rows")
    return manifest


def _require_run(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Rows in the numbers that maps and model allow, and by the rules that our own runs are written by."""
    import duckdb
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from atlas.store.run_writer import require_rows

    model = manifest["model"] or {"layers": 0, "width": 0}
    if not (0 <= model["layers"] <= _LAYERS and 0 <= model["width"] <= _WIDTH):
        raise IntegrityError(f"{folder.name[:12]}: its model has {model['layers']} layers of {model['width']} neurons")
    for name in SHARDS:
        file = folder / f"{name}.parquet"
        if file.exists() and pq.read_metadata(file).num_rows != manifest["files"][file.name]["rows"]:
            raise IntegrityError(f"{file} has another number of rows than its manifest says")
    rows = {name: manifest["files"].get(f"{name}.parquet", {"rows": 0})["rows"] for name in SHARDS}
    kept = 0
    if rows["maps"]:
        columns = pq.read_schema(folder / "maps.parquet").names
        maps = pq.read_table(folder / "maps.parquet", columns=["kept" if "kept" in columns else "neurons"])
        kept = pc.sum(pc.cast(maps.column(0), "int64")).as_py() or 0
    if kept != rows["scores"]:
        raise IntegrityError(f"{folder.name[:12]}: its maps keep {kept} scores, and it has {rows['scores']}")
    require_rows(folder, manifest)
    if rows["effects"]:
        with duckdb.connect() as connection:
            effects = connection.from_parquet(str(folder / "effects.parquet"))
            labels = [label for (label,) in effects.project("edit").distinct().fetchall()]
        wrong = [label for label in labels if "@" in label and not LABEL.fullmatch(label)]
        if wrong:
            raise IntegrityError(f"{folder.name[:12]}: it has effects of {wrong[0][:100]!r}, which names no edit")


def _edit(folder: Path, label: str) -> Edit:
    from atlas.edits.files import read_edit
    from atlas.edits.single_file import require_fits

    file = folder / "edits" / f"{label}.json"
    if file.stat().st_size > LARGEST_JSON:
        raise IntegrityError(f"{file} is too large for an edit")
    plain_json(small_file(file), str(file))
    edit = read_edit(file)
    if edit.label != label:
        raise IntegrityError(f"{file} is of {edit.label}, not of {label}")
    try:
        require_fits(edit.intervention, edit.model)
    except ValueError as error:
        raise IntegrityError(f"{file} is damaged: {error}") from error
    return edit


def _require_atlas(folder: Path, manifests: Mapping[str, Any], edits: Mapping[str, Edit]) -> None:
    """Make the bundle's own database, and check it: `atlas db check` of what would come in.

    The database is for this alone; that of the atlas is loaded from the files, as here.
    """
    from atlas.edits.files import read_stored
    from atlas.edits.rows import load_edit
    from atlas.maintain.check import check
    from atlas.store import create
    from atlas.store.engine import connect_writer
    from atlas.store.run_loader import load_run

    create.create(folder)
    for run in manifests:
        with connect_writer(folder) as connection:
            load_run(connection, folder_of(folder, run))
    with connect_writer(folder) as connection:
        for label in edits:
            load_edit(connection, *read_stored(folder / "edits" / f"{label}.json"))
    findings = check(folder)
    if findings:
        shown = "; ".join(map(str, findings[:3])) + ("; ..." if len(findings) > 3 else "")
        raise IntegrityError(f"the bundle does not agree with itself ({len(findings)} findings): {shown}")
