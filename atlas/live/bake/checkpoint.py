"""A baked edit as a HuggingFace checkpoint: the edited weights, a model card, and what undoes them bit for bit."""

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
from atlas.edits.reference_values import maps_of
from atlas.errors import AtlasError, IntegrityError, UsageError
from atlas.live.bake.bake import HOOKS, Baked, Kept, bake
from atlas.live.layout import columns_of
from atlas.live.model import LiveModel

UNDO, CARD = "atlas_edit.safetensors", "README.md"
FORMAT = "neuron-atlas baked edit 1"


def save_baked(live: LiveModel, edit: StoredEdit | Edit, out: Path) -> Baked:
    """Write a checkpoint with an edit in its weights, whole or not at all; plain transformers loads it. The live model
    is afterwards what it was.

    out: the folder to make: weights in the live model's precision, config, processor, a model card, and
    `atlas_edit.safetensors`, which undoes it.

    Returns:
        What was changed, restored already.

    Raises:
        UsageError: the folder has files in it, or the edit changes no number of these weights.
        AtlasError: it cannot be written (a full disk). Otherwise as `bake`.
    """
    edit = edit.data if isinstance(edit, StoredEdit) else edit
    check_free(out)
    exact = exactly(live)
    baked = bake(live, edit)
    kept = dict(baked.kept)
    try:
        if not baked.numbers:
            raise UsageError(f"{edit.label} changes no weight in {live.dtype}: it does nothing, or too little; {HOOKS}")
        with _finished(out) as folder:
            _save(live, folder)
            said = {"edit": edit.label, "base": edit.fingerprint, "baked": live.fingerprint, "mlp_bias": baked.switched}
            said |= {"exact_base": exact, "exact_baked": exactly(live)}
            _write_undo(folder / UNDO, kept, said)
            card = _card(edit, said, baked)
            (folder / CARD).write_text(card, encoding="utf-8")
    finally:
        baked.restore()
    return baked


def unbake(folder: Path, out: Path) -> str:
    """Write the checkpoint that `save_baked` was given, bit for bit, from the one that it wrote.

    Returns:
        The label of the edit that was taken out.

    Raises:
        UsageError: `folder` is not a baked checkpoint, or `out` has files in it.
        IntegrityError: its weights are not those that were written, or its undo file is damaged.
        AtlasError: it cannot be written.
    """
    check_free(out)
    said, tensors = _read_undo(folder / UNDO)
    live = LiveModel.load(folder, dtype="auto")
    if exactly(live) != said["exact_baked"]:
        raise IntegrityError(
            f"the weights in {folder} (fingerprint {live.fingerprint[:12]}) are not those that were baked "
            f"({said['baked'][:12]}); they were changed since, and without {said['edit']} would not be the original"
        )
    Baked(live.model, live.layout, _as_kept(live, tensors, folder), switched=bool(said["mlp_bias"])).restore()
    if exactly(live) != said["exact_base"]:
        raise IntegrityError(
            f"{folder / UNDO} does not give the base model {said['base'][:12]} back; load that instead"
        )
    with _finished(out) as fresh:
        _save(live, fresh)
    return str(said["edit"])


def check_free(out: Path) -> None:
    """Raise UsageError where a checkpoint would overwrite something."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already and not empty; choose another folder with --out")


@contextmanager
def _finished(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it at the block's end; after an error nothing is left.

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
            f"cannot write {out} ({reason}); nothing of it was kept: free some space, or give another folder with --out"
        ) from error


def exactly(live: LiveModel) -> str:
    """64 hex digits of every bit of every parameter: a fingerprint rounds them."""
    return _sum({name: parameter.detach().cpu() for name, parameter in live.model.named_parameters()})


def _save(live: LiveModel, folder: Path) -> None:
    live.model.save_pretrained(folder)  # weights, config and generation config
    live.encoder.processor.save_pretrained(folder)


def _sum(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _write_undo(file: Path, kept: Mapping[int, Kept], said: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {}
    for layer, was in kept.items():
        tensors |= {f"{layer}.index": was.index, f"{layer}.columns": was.columns}
        tensors |= {} if was.bias is None else {f"{layer}.bias": was.bias}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({"format": FORMAT, **said, "sha256": _sum(tensors)}, ensure_ascii=False)
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
            said = json.loads((handle.metadata() or {}).get("atlas_edit", "{}"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        if said.get("format") != FORMAT:
            raise ValueError(f"its format is {said.get('format')}, not '{FORMAT}'")
        if not {"edit", "base", "baked", "exact_base", "exact_baked", "mlp_bias"} <= said.keys() or said[
            "sha256"
        ] != _sum(tensors):
            raise ValueError("its content is not what its sum says")
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{file} is damaged ({error}); load the base model instead") from error
    return said, tensors


def _as_kept(live: LiveModel, tensors: Mapping[str, Tensor], folder: Path) -> dict[int, Kept]:
    found = {}
    try:
        for layer in sorted({int(name.partition(".")[0]) for name in tensors}):
            weight: Any = columns_of(live.layout.down[layer])
            index, columns = tensors[f"{layer}.index"], tensors[f"{layer}.columns"]
            if columns.dtype != weight.dtype or columns.shape != weight[:, index].shape:
                raise ValueError(f"layer {layer} has {weight.dtype} weights {tuple(weight.shape)}, its columns others")
            found[layer] = Kept(index, columns, tensors.get(f"{layer}.bias"))
    except (KeyError, ValueError, IndexError) as error:
        raise IntegrityError(f"{folder / UNDO} is not of the weights beside it ({error})") from error
    return found


def _card(edit: Edit, said: Mapping[str, Any], baked: Baked) -> str:
    """The model card."""
    base = str(edit.model["name"])
    facts = {
        "Base model": f"{base}, revision {edit.model.get('revision') or 'not known'}, fingerprint `{said['base']}`",
        "These weights": f"fingerprint `{said['baked']}`",
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
    """What made the edit, in a few words."""
    if edit.solver is not None:
        return f"computed by the solver `{edit.solver}`"
    if composed := edit.provenance.get("composed"):
        return f"composed of {', '.join(map(str, composed))}"
    methods = sorted({str(m["method"]) for m in maps_of(edit.provenance)})
    return f"neurons chosen by {', '.join(methods)}" if methods else "neurons chosen by hand"
