"""A baked edit as a HuggingFace checkpoint: the edited weights, a model card, and a file that undoes the edit."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atlas.edits.edit import Edit
from atlas.edits.library import StoredEdit
from atlas.errors import AtlasError, IntegrityError, UsageError
from atlas.live.bake.bake import HOOKS, Baked, OriginalColumns, bake
from atlas.live.layout import columns_of
from atlas.live.model import LiveModel
from atlas.query.provenance import maps_of

UNDO, CARD = "atlas_edit.safetensors", "README.md"
FORMAT = "neuron-atlas baked edit 1"


def save_baked(live: LiveModel, edit: StoredEdit | Edit, out: Path) -> Baked:
    """Write a checkpoint with an edit in its weights, completely or not at all; plain transformers loads it. The live
    model is unchanged afterwards.

    out: the folder to make: weights in the live model's precision, config, processor, a model card, and
    `atlas_edit.safetensors`, which undoes it.

    Returns:
        What was changed; the live model is already restored.

    Raises:
        UsageError: the folder has files in it, or the edit changes no number of these weights.
        AtlasError: it cannot be written (a full disk).
        Other errors: see `bake`.
    """
    edit = edit.data if isinstance(edit, StoredEdit) else edit
    check_free(out)
    exact_base = exact_hash(live)
    baked = bake(live, edit)
    originals = dict(baked.kept)
    try:
        if not baked.numbers:
            raise UsageError(f"{edit.label} changes no weight in {live.dtype}: it does nothing, or too little; {HOOKS}")
        with _completed_folder(out) as folder:
            _save(live, folder)
            header = {
                "edit": edit.label,
                "base": edit.fingerprint,
                "baked": live.fingerprint,
                "mlp_bias": baked.switched,
            }
            header |= {"exact_base": exact_base, "exact_baked": exact_hash(live)}
            _write_undo(folder / UNDO, originals, header)
            card = _card(edit, header, baked)
            (folder / CARD).write_text(card, encoding="utf-8")
    finally:
        baked.restore()
    return baked


def unbake(folder: Path, out: Path) -> str:
    """Write the original checkpoint, bit for bit, from the one that `save_baked` wrote.

    Returns:
        The label of the edit that was taken out.

    Raises:
        UsageError: `folder` is not a baked checkpoint, or `out` has files in it.
        IntegrityError: its weights changed since they were written, or its undo file is damaged.
        AtlasError: it cannot be written.
    """
    check_free(out)
    header, tensors = _read_undo(folder / UNDO)
    live = LiveModel.load(folder, dtype="auto")
    if exact_hash(live) != header["exact_baked"]:
        raise IntegrityError(
            f"the weights in {folder} (fingerprint {live.fingerprint[:12]}) are not those that were baked "
            f"({header['baked'][:12]}); they changed since, so taking {header['edit']} out would not give the original"
        )
    Baked(
        live.model, live.layout, _original_columns(live, tensors, folder), switched=bool(header["mlp_bias"])
    ).restore()
    if exact_hash(live) != header["exact_base"]:
        raise IntegrityError(
            f"{folder / UNDO} does not restore the base model {header['base'][:12]}; load that model instead"
        )
    with _completed_folder(out) as fresh:
        _save(live, fresh)
    return str(header["edit"])


def check_free(out: Path) -> None:
    """Raise UsageError where a checkpoint would overwrite something."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} already exists and is not empty; choose another folder with [[out]]")


@contextmanager
def _completed_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that is moved to `out` at the block's end; after an error nothing is left.

    Raises:
        AtlasError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            folder = Path(beside) / "model"  # a temporary folder itself is closed to others
            folder.mkdir()
            yield folder
            for file in folder.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            folder.replace(out)
    except Exception as error:
        # The Rust libraries behind tokenizers and safetensors have their own kinds of error for a full disk.
        if not isinstance(error, OSError) and "os error" not in str(error):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise AtlasError(
            f"cannot write {out} ({reason}); nothing was kept: free some space, or give another folder with [[out]]"
        ) from error


def exact_hash(live: LiveModel) -> str:
    """64 hex digits of every bit of every parameter; a fingerprint rounds them first."""
    return _hash_of({name: parameter.detach().cpu() for name, parameter in live.model.named_parameters()})


def _save(live: LiveModel, folder: Path) -> None:
    live.model.save_pretrained(folder)  # weights, config and generation config
    live.encoder.processor.save_pretrained(folder)


def _hash_of(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_undo(file: Path, originals: Mapping[int, OriginalColumns], facts: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    for layer, original in originals.items():
        tensors |= {f"{layer}.index": original.index, f"{layer}.columns": original.columns}
        tensors |= {} if original.bias is None else {f"{layer}.bias": original.bias}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"format": FORMAT, **facts, "sha256": _hash_of(tensors)}, ensure_ascii=False)
    save_file(tensors, file, metadata={"atlas_edit": header})


def _read_undo(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of an undo file.

    Raises:
        UsageError: there is none.
        IntegrityError: it is damaged.
    """
    if not file.is_file():
        raise UsageError(
            f"{file.parent} has no {UNDO}, so no edit was baked into it; `atlas edit bake` writes such folders"
        )
    try:
        with safe_open(file, "pt") as handle:
            header = json.loads((handle.metadata() or {}).get("atlas_edit", "{}"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        if header.get("format") != FORMAT:
            raise ValueError(f"its format is {header.get('format')}, not '{FORMAT}'")
        if not {"edit", "base", "baked", "exact_base", "exact_baked", "mlp_bias"} <= header.keys() or header[
            "sha256"
        ] != _hash_of(tensors):
            raise ValueError("its content does not match its checksum")
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{file} is damaged ({error}); load the base model instead") from error
    return header, tensors


def _original_columns(live: LiveModel, tensors: Mapping[str, Tensor], folder: Path) -> dict[int, OriginalColumns]:
    originals = {}
    try:
        for layer in sorted({int(name.partition(".")[0]) for name in tensors}):
            weight: Any = columns_of(live.layout.down[layer])
            index, columns = tensors[f"{layer}.index"], tensors[f"{layer}.columns"]
            if columns.dtype != weight.dtype or columns.shape != weight[:, index].shape:
                raise ValueError(f"layer {layer} has {weight.dtype} weights {tuple(weight.shape)}, its columns do not")
            originals[layer] = OriginalColumns(index, columns, tensors.get(f"{layer}.bias"))
    except (KeyError, ValueError, IndexError) as error:
        raise IntegrityError(
            f"{folder / UNDO} does not belong to the weights beside it ({error}); load the base model instead"
        ) from error
    return originals


def _card(edit: Edit, header: Mapping[str, Any], baked: Baked) -> str:
    """The model card."""
    base = str(edit.model["name"])
    facts = {
        "Base model": f"{base}, revision {edit.model.get('revision') or 'not known'}, fingerprint `{header['base']}`",
        "These weights": f"fingerprint `{header['baked']}`",
        "Edit": f"`{edit.label}`, of {edit.created_at}, {_origin(edit)}",
        "Concept": edit.concept or "not one concept",
        "Note": " ".join((edit.note or "none").split()),
        "Changed": f"{baked.neurons:,} neurons, {baked.numbers:,} numbers of the weights"
        + (" (biases of zeros were added to all FFN projections, `mlp_bias`)" if baked.switched else ""),
    }
    lines = [f"- **{name}:** {fact}" for name, fact in facts.items()]
    head = ["---", f"base_model: {json.dumps(base)}", "library_name: transformers", "tags: [neuron-atlas]", "---"]
    about = [
        f"# {base} with the edit {edit.label}",
        "The base model with an edit of some neurons of its feed-forward layers written into its down projections. "
        "Nothing else was changed, and no code beyond transformers is needed. The base model's licence applies.",
        "\n".join(lines),
        "## Undo",
        f"`{UNDO}` holds the original columns. `atlas edit unbake THIS_FOLDER --out ORIGINAL` writes the base model's "
        "checkpoint again, bit for bit, and verifies that it is.",
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(about) + "\n"


def _origin(edit: Edit) -> str:
    """How the edit was made, in a few words."""
    if edit.solver is not None:
        return f"computed by the solver `{edit.solver}`"
    if composed := edit.provenance.get("composed"):
        return f"composed of {', '.join(map(str, composed))}"
    methods = sorted({str(m["method"]) for m in maps_of(edit.provenance)})
    return f"neurons chosen by {', '.join(methods)}" if methods else "neurons chosen by hand"
