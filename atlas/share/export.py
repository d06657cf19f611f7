"""Write an atlas, or a part of it, as a bundle. The format is in `atlas.share.listing`."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.errors import IntegrityError, UsageError, unknown
from atlas.query.decoded import DECODINGS, has_z
from atlas.share.card import card, citation
from atlas.share.choice import OF_MAPS, Choice, chosen_runs, matches
from atlas.share.export_edits import write_edits, write_json, write_selections
from atlas.share.extract import write_companion, write_extract
from atlas.share.listing import CARD, FORMAT, NAME
from atlas.share.portable import folders, portable_manifest
from atlas.store.atomic import sha256
from atlas.store.database import VERSION, literal, open_readonly, require_plain
from atlas.store.duckdb_errors import unwritable
from atlas.store.run_manifest import NAME as MANIFEST
from atlas.store.run_manifest import folder_of, read_manifest


@dataclass(slots=True)
class Exported:
    """The contents of a written bundle. runs: as bundle.json lists them. bytes: of all its files but README.md."""

    folder: Path
    runs: list[dict[str, Any]] = field(default_factory=list)
    edits: list[str] = field(default_factory=list)
    selections: list[str] = field(default_factory=list)
    bytes: int = 0


def export(path: Path, folder: Path, choice: Choice | None = None) -> Exported:
    """Write a bundle, completely or not at all: under a hidden name beside it, then renamed.

    Raises:
        UsageError: the folder already exists, or nothing in the atlas matches the choice.
        StoreUnavailable: the atlas is missing, being written, or of another version; or the folder cannot be written.
        IntegrityError: a file of the atlas does not match its manifest.
    """
    choice = choice or Choice()
    folder = folder.absolute()
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} already exists; choose another name or remove it")
    require_plain(folder)
    manifests = _finished_runs(path)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        written = _runs(path, partial, manifests, choice)
        exported = Exported(folder)
        fingerprints = {m["model"]["fingerprint"] for m in written.values() if m["model"]}
        if choice.edits:
            everything = choice.as_json() is None
            known = folders(m["model"]["name"] for m in manifests.values() if m["model"])
            exported.edits = write_edits(path, partial, choice, None if everything else fingerprints, known)
            exported.selections = write_selections(path, partial, choice, None if everything else fingerprints, known)
        _write_listing(partial, exported, written, choice)
        partial.replace(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return exported


def _finished_runs(path: Path) -> dict[str, dict[str, Any]]:
    """The manifests of all finished runs, in the order in which they finished."""
    with open_readonly(path) as connection:
        query = "SELECT run_id FROM runs WHERE status = 'done' ORDER BY finished_at, run_id"
        ids = [str(row[0]) for row in connection.execute(query).fetchall()]
    return {run: read_manifest(folder_of(path, run), verify=False) for run in ids}


def _runs(
    path: Path, folder: Path, manifests: Mapping[str, dict[str, Any]], choice: Choice
) -> dict[str, dict[str, Any]]:
    """Write the chosen runs, and return the manifests that the bundle has."""
    written = chosen_runs(manifests, choice)
    if choice.of_maps():
        written = _extracts(path, folder, written, choice)
    else:
        for run, manifest in written.items():
            _copy_run(folder_of(path, run), folder_of(folder, run), manifest)
    if choice.as_json() is not None:
        _companions(path, folder, manifests, {manifest["run"]["run_id"] for manifest in written.values()})
    bundled = {f.name: read_manifest(f, verify=False) for f in sorted(folder.glob("runs/*"))}
    _require_concepts(folder, bundled)
    return dict(sorted(bundled.items(), key=lambda item: (item[1]["run"]["finished_at"], item[0])))


def _copy_run(source: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Copy a run, its shards byte for byte."""
    target.mkdir(parents=True)
    for name, entry in manifest["files"].items():
        shutil.copyfile(source / name, target / name)
        if sha256(target / name) != entry["sha256"]:
            raise IntegrityError(f"{source / name} does not match its manifest (sha256); run the job again")
    _require_pointers(target, manifest)
    write_json(target / MANIFEST, portable_manifest(manifest))


def _require_pointers(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse examples that name pictures and recordings by their absolute paths."""
    import duckdb

    if "examples.parquet" in manifest["files"]:
        file = literal((folder / "examples.parquet").resolve())
        query = f"SELECT pointer FROM (SELECT unnest(media) AS pointer FROM read_parquet({file}))"
        query += " WHERE starts_with(pointer, '/') OR regexp_matches(pointer, '^([A-Za-z]:[/\\\\]|~)') LIMIT 1"
        with duckdb.connect() as connection:
            absolute = connection.execute(query).fetchall()
        if absolute:
            raise UsageError(
                f"run {folder.name[:8]} names media by absolute paths ({absolute[0][0]}); leave it out, or "
                "run it again with a dataset whose media are named relative to its folder"
            )


def _extracts(
    path: Path, folder: Path, manifests: Mapping[str, dict[str, Any]], choice: Choice
) -> dict[str, dict[str, Any]]:
    """Write an extract of every run that has some of the chosen maps; extract -> the run's manifest."""
    import pyarrow.parquet as pq

    known: dict[str, set[str]] = {name: set() for name in OF_MAPS}
    written = {}
    for run, manifest in manifests.items():
        source = folder_of(path, run)
        if "maps.parquet" not in manifest["files"]:
            continue
        names = ["map_id", "concept_id", *OF_MAPS[1:]]
        rows = pq.read_table(source / "maps.parquet", columns=names).to_pylist()
        for row in rows:
            concept_id = row["concept_id"]
            row["concept"] = "*" if concept_id is None else manifest["concepts"][concept_id]["name"]
            for name in OF_MAPS:
                known[name].add(row[name])
        maps = [
            row["map_id"]
            for row in rows
            if all(matches(n, row[n], patterns) for n, patterns in choice.of_maps().items())
        ]
        if maps:
            read_manifest(source)  # verifies the checksums of what is read below
            portable_run = portable_manifest(manifest)
            extract = write_extract(source, folder, portable_run, choice.of_maps(), maps)
            _require_pointers(folder_of(folder, extract), read_manifest(folder_of(folder, extract), verify=False))
            written[extract] = manifest
    for name, patterns in choice.of_maps().items():
        for word in patterns:
            if not any(matches(name, k, [word]) for k in known[name]):
                raise unknown(name, word, known[name], "atlas runs show RUN")
    if not written:
        raise UsageError("no map matches all of this; `atlas runs show RUN` lists a run's maps")
    return written


def _companions(path: Path, folder: Path, manifests: Mapping[str, dict[str, Any]], in_bundle: set[str]) -> None:
    """Write what the chosen runs left out because another run of their model has it, as separate runs."""
    import pyarrow.parquet as pq

    bundled = {f.name: read_manifest(f, verify=False) for f in folder.glob("runs/*")}
    models = {_model(m) for m in bundled.values()}
    tokens: dict[tuple[Any, ...], int] = {}
    for run, manifest in bundled.items():
        tokens[_model(manifest)] = max(tokens.get(_model(manifest), 0), _tokens(folder_of(folder, run), manifest))
    shown = [
        pq.read_table(folder_of(folder, run) / "examples.parquet", columns=["example_id"])
        for run, manifest in bundled.items()
        if "examples.parquet" in manifest["files"]
    ]
    examples = pa.concat_tables(shown).group_by("example_id").aggregate([]) if shown else None
    for run, manifest in ((run, portable_manifest(m)) for run, m in manifests.items()):
        if run in in_bundle or _model(manifest) not in models or not manifest["model"]:
            continue
        kind = _tokens(folder_of(path, run), manifest)
        tables = ["decodings"] if kind > tokens.get(_model(manifest), 0) else []
        if manifest["files"].get("responses.parquet", {"rows": 0})["rows"] and examples is not None:
            responses = pq.read_table(folder_of(path, run) / "responses.parquet", columns=["example_id"])
            tables += ["responses"] if responses.join(examples, "example_id", join_type="left semi").num_rows else []
        if tables:
            read_manifest(folder_of(path, run))
            chosen = {"tables": tables, "for": sorted(bundled)}
            example_ids = examples if examples is not None else pa.table({"example_id": pa.array([], pa.string())})
            write_companion(folder_of(path, run), folder, manifest, chosen, example_ids)
            tokens[_model(manifest)] = max(tokens.get(_model(manifest), 0), kind)


def _tokens(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Which decoded tokens a run's folder has: 0 none, 1 those of before z, 2 those by z too."""
    if not manifest["files"].get(DECODINGS, {"rows": 0})["rows"]:
        return 0
    return 2 if has_z(folder / DECODINGS) else 1


def _model(manifest: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((manifest["model"] or {}).get(name) for name in ("name", "revision", "fingerprint"))


def _require_concepts(folder: Path, manifests: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse measures of concepts that no run of the bundle names: an import could not relate them to any concept."""
    import pyarrow.parquet as pq

    known = {concept["name"] for manifest in manifests.values() for concept in manifest["concepts"]}
    for run, manifest in manifests.items():
        for name in ("effects", "measures"):
            if f"{name}.parquet" in manifest["files"]:
                rows = pq.read_table(folder_of(folder, run) / f"{name}.parquet", columns=["concept"])
                lost = sorted(set(rows["concept"].drop_null().unique().to_pylist()) - known)
                if lost:
                    raise UsageError(
                        f"run {run[:8]} measures '{lost[0]}', which no chosen run has among its concepts; choose the "
                        "run with its maps too ([[run=A,B]])"
                    )


def _about(folder: Path, run: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A run as bundle.json lists it."""
    import pyarrow.parquet as pq

    run_row, methods = manifest["run"], list(manifest["run"]["job"].get("methods") or [])
    if "maps.parquet" in manifest["files"]:
        methods = pq.read_table(folder / "maps.parquet", columns=["method"])["method"].unique().to_pylist()
    rows = {
        name: manifest["files"].get(f"{name}.parquet", {"rows": 0})["rows"] for name in ("maps", "scores", "examples")
    }
    return {
        "run_id": run,
        "kind": run_row["kind"],
        "model": (manifest["model"] or {}).get("name"),
        "dataset": (manifest["dataset"] or {}).get("name"),
        "methods": sorted(methods),
        "concepts": len(manifest["concepts"]),
        **rows,
    }


def _write_listing(folder: Path, exported: Exported, manifests: Mapping[str, dict[str, Any]], choice: Choice) -> None:
    """Write the card, and bundle.json last."""
    exported.runs = [_about(folder_of(folder, run), run, manifest) for run, manifest in manifests.items()]
    methods = {method.partition(".")[0] for run in exported.runs for method in run["methods"]}
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    listing = {
        "format": FORMAT,
        "schema": VERSION,
        "program": f"neuron-atlas {importlib.metadata.version('neuron-atlas')}",
        "filter": choice.as_json(),
        "runs": exported.runs,
        "models": _distinct(manifests, "model", ("name", "revision", "fingerprint")),
        "datasets": _distinct(manifests, "dataset", ("name", "revision", "licence")),
        "edits": exported.edits,
        "selections": exported.selections,
        "citation": citation(methods),
        "files": {f.relative_to(folder).as_posix(): {"bytes": f.stat().st_size, "sha256": sha256(f)} for f in files},
    }
    exported.bytes = sum(f.stat().st_size for f in files)
    tables = {f.stem for f in files if f.suffix == ".parquet"}
    (folder / CARD).write_text(card(listing, tables), encoding="utf-8")
    write_json(folder / NAME, listing)


def _distinct(manifests: Mapping[str, dict[str, Any]], kind: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    keys = {tuple(m[kind][n] for n in names): None for m in manifests.values() if m[kind]}
    return [dict(zip(names, values, strict=True)) for values in sorted(keys, key=repr)]
