"""A bundle unpacked as a separate atlas, and checked as one, before anything of it is stored."""

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
    MALFORMED,
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
"""No model has more; limits what a bundle may claim, so that it cannot claim any number of rows."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A checked bundle. folder: a separate atlas. manifests: by run, in the order in which they finished.
    edits: by `name@version`."""

    folder: Path
    listing: Listing
    manifests: Mapping[str, dict[str, Any]]
    edits: Mapping[str, Edit]


def unpack(bundle: Path, folder: Path) -> Unpacked:
    """Copy a bundle into an empty folder, and check everything that holds for an atlas.

    The copy is checked, so that later changes of the bundle have no effect.

    Raises:
        UsageError: no bundle there.
        StoreUnavailable: a newer program wrote it.
        IntegrityError: it does not match its checksums, or cannot be an atlas.
    """
    listing = read_listing(bundle)
    sources = {name: plain_file(bundle, name) for name in sorted(listing.files)}
    for name, file in sources.items():
        if file.stat().st_size != listing.files[name][0]:
            raise _altered(file, "size")
    needed = sum(size for size, _ in listing.files.values())
    if needed > shutil.disk_usage(folder).free:
        raise AtlasError(
            f"the bundle has {needed / 1e6:,.0f} MB, more than is free on the disk of the atlas; free some space"
        )
    for name, file in sources.items():
        _copy(file, folder / name, *listing.files[name])
    with _as_damage(bundle, folder):
        manifests = {run: _manifest(folder, listing, run) for run in listing.runs}
        require_bounded([folder / name for name in sorted(listing.files) if name.endswith(".parquet")])
        ordered = dict(sorted(manifests.items(), key=lambda item: (item[1]["run"]["finished_at"], item[0])))
        for run, manifest in ordered.items():
            _require_run(folder_of(folder, run), manifest)
        edits = {label: _edit(folder, label) for label in listing.edits}
        _require_atlas(folder, ordered, edits)
    return Unpacked(folder, listing, ordered, edits)


def _copy(source: Path, target: Path, size: int, digest: str) -> None:
    """Copy a file and compute its checksum in one pass; links are not followed, and no more than `size` is read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    remaining = size + 1
    handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as reading, target.open("wb") as writing:
        while remaining > 0 and (chunk := reading.read(min(_CHUNK, remaining))):
            hasher.update(chunk)
            writing.write(chunk)
            remaining -= len(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    if remaining != 1 or hasher.hexdigest() != digest:
        raise _altered(source, "sha256")


def _altered(file: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{file} does not match bundle.json ({what}): it was changed or cut; fetch it again")


@contextmanager
def _as_damage(bundle: Path, folder: Path) -> Iterator[None]:
    """Turn errors of the block into errors about the bundle, as nothing else is read there; messages name the bundle
    and not its copy."""
    import duckdb
    import pyarrow as pa
    import sqlalchemy as sa

    def message(error: Exception) -> str:
        return " ".join(str(error).replace(str(folder), str(bundle)).split())[:600]

    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(message(error)) from error
    except duckdb.OutOfMemoryException as error:
        raise AtlasError(f"checking the bundle {bundle} needs more memory than there is") from error
    except OSError as error:
        if error.errno is not None:  # a disk error; Arrow raises one without a number for a file that is not Parquet
            raise
        raise IntegrityError(f"the bundle {bundle} is damaged: {message(error)}") from error
    except (*MALFORMED, duckdb.Error, pa.ArrowException, sa.exc.SQLAlchemyError) as error:
        raise IntegrityError(f"the bundle {bundle} is damaged: {type(error).__name__}: {message(error)}") from error


def _manifest(folder: Path, listing: Listing, run: str) -> dict[str, Any]:
    """The manifest of a run, which must list the same files and checksums as the bundle."""
    from atlas.store.run_manifest import read_manifest

    file = folder_of(folder, run) / MANIFEST
    payload = plain_json(small_file(file), str(file))
    revision = payload.get("schema")
    if not isinstance(revision, str) or not REVISION.fullmatch(revision):
        raise IntegrityError(f"{file} does not name a schema")
    manifest = read_manifest(file.parent, verify=False)
    in_manifest = {f"runs/{run}/{name}": (e["bytes"], e["sha256"]) for name, e in manifest["files"].items()}
    in_listing = {
        n: about for n, about in listing.files.items() if n.startswith(f"runs/{run}/") and not n.endswith(MANIFEST)
    }
    if in_manifest != in_listing:
        raise IntegrityError(f"{file} and bundle.json list different files or checksums")
    if not all(type(e["rows"]) is int and 0 <= e["rows"] < 1 << 40 for e in manifest["files"].values()):
        raise IntegrityError(f"{file} has an impossible number of rows")
    return manifest


def _require_run(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Check the numbers of rows against maps and model, and the rows by the rules of our own runs."""
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
        raise IntegrityError(f"{folder.name[:12]}: its maps have {kept} scores, and its file has {rows['scores']}")
    require_rows(folder, manifest)
    if rows["effects"]:
        with duckdb.connect() as connection:
            effects = connection.from_parquet(str(folder / "effects.parquet"))
            labels = [label for (label,) in effects.project("edit").distinct().fetchall()]
        bad_labels = [label for label in labels if "@" in label and not LABEL.fullmatch(label)]
        if bad_labels:
            raise IntegrityError(
                f"{folder.name[:12]}: it has effects of {bad_labels[0][:100]!r}, which is not an edit's label"
            )


def _edit(folder: Path, label: str) -> Edit:
    from atlas.edits.files import read_edit
    from atlas.edits.single_file import require_fits

    file = folder / "edits" / f"{label}.json"
    if file.stat().st_size > LARGEST_JSON:
        raise IntegrityError(f"{file} is too large for an edit")
    plain_json(small_file(file), str(file))
    edit = read_edit(file)
    if edit.label != label:
        raise IntegrityError(f"{file} has the edit {edit.label}, not {label}")
    try:
        require_fits(edit.intervention, edit.model)
    except ValueError as error:
        raise IntegrityError(f"{file} is damaged: {error}") from error
    return edit


def _require_atlas(folder: Path, manifests: Mapping[str, Any], edits: Mapping[str, Edit]) -> None:
    """Build a database of the bundle's files, and check it like `atlas db check`.

    It is used for this check only; the atlas's own database is loaded from the files too.
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
