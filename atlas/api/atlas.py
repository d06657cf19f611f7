"""The atlas as one class. Every question opens the database for the moment it takes, so ingest is never locked out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from atlas.api.compare import AcrossMaps
from atlas.api.query import Questions
from atlas.api.vectors import Nearest
from atlas.edits.positions import EVERYWHERE, Positions
from atlas.errors import UsageError
from atlas.neurons import Neuron
from atlas.query import pins, statements
from atlas.query.map_spec import MapSpec
from atlas.query.neuron_set import NeuronSet, everything_but
from atlas.query.resolve_maps import choose_map
from atlas.store.database import open_readonly
from atlas.store.pins_file import Pins, read

if TYPE_CHECKING:
    from atlas.edits.edit import Edit
    from atlas.edits.library import StoredEdit


def default_path() -> Path:
    """$NEURON_ATLAS, else `default.atlas` in the user's data folder."""
    if given := os.environ.get("NEURON_ATLAS"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_data_dir("neuron-atlas")) / "default.atlas"


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of one neuron: Arrow tables of its tokens, its best concepts, its strongest examples.

    assumed: which model and run were taken, where there are several."""

    neuron: Neuron
    model: str
    tokens: pa.Table
    concepts: pa.Table
    exemplars: pa.Table
    assumed: tuple[str, ...] = ()


class Atlas(Questions, AcrossMaps, Nearest):
    """An atlas folder. `Atlas.open` checks that it is one; the object holds nothing open."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path | None = None, *, create: bool = False) -> Atlas:
        """The atlas at a path; by default `default_path()`. create: make an empty one where there is none.

        Raises:
            StoreUnavailable: there is no atlas, it is of another version, or it is being written.
        """
        folder = Path(path) if path is not None else default_path()
        if create:
            from atlas.store import create as store_create

            store_create.init(folder)
        with open_readonly(folder):
            return cls(folder)

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def neuron(
        self,
        address: str | Neuron,
        *,
        method: str | None = None,
        source: str | None = None,
        target: str | None = None,
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
        top: int = 5,
    ) -> Profile:
        """What is known of one neuron; method, source and reduce narrow its best concepts down. The random control is
        left out, unless it is the method that is asked for.

        Raises:
            UsageError: not an address, or a neuron that the model does not have.
        """
        neuron = Neuron.parse(address) if isinstance(address, str) else address
        with open_readonly(self.path) as connection:
            which = MapSpec(
                None, method, source=source, target=target, reduce=reduce, model=model, dataset=dataset, run=run
            )
            chosen = choose_map(connection, which)
            if neuron.layer >= chosen["layers"] or neuron.index >= chosen["width"]:
                last = f"{chosen['layers'] - 1}/{chosen['width'] - 1}"
                raise UsageError(f"no neuron {neuron}; {chosen['model']} has neurons 0/0 to {last}")
            maps = statements.find_maps(replace(which, model=chosen["model"])).run(connection).to_pylist()
            shown = [m for m in maps if m["method"] == method or m["method"] != "random"]
            ids = [m["map_id"] for m in shown if m["model_id"] == chosen["model_id"]]
            return Profile(
                neuron,
                str(chosen["model"]),
                statements.decoded_tokens(neuron, chosen["model_id"]).run(connection),
                statements.best_concepts(neuron, ids, top=top).run(connection),
                statements.strongest_examples(neuron, chosen["model_id"]).run(connection),
                tuple(a for a in chosen.assumed if a.startswith(("model=", "fingerprint=", "dataset=", "run="))),
            )

    def use(self, model: str | None = None, *, dataset: str | None = None, runs: Sequence[str] = ()) -> Pins:
        """Pin what questions that leave it open are about: a model, a dataset, runs (by the beginnings of their ids).

        What is pinned already stays; without arguments, what is pinned. `use_nothing` unpins all.

        Raises:
            UsageError: the atlas has no such model, dataset or finished run.
        """
        if model is None and dataset is None and not runs:
            return read(self.path)
        return pins.pin(self.path, model=model, dataset=dataset, runs=runs)

    def use_nothing(self) -> None:
        """Unpin everything: questions are again about the newest model and dataset."""
        pins.clear(self.path)

    def mapped(self, method: str, *, source: str, model: str | None = None) -> set[str]:
        """The concepts that have a map of this method and source."""
        found = self._ask(statements.find_maps(MapSpec(method=method, source=source, model=model)))
        return set(found["concept"].to_pylist()) - {"*"}

    def listing(self, kind: str) -> pa.Table:
        """Everything of one kind: models, datasets, runs, concepts, edits, effects."""
        return self._ask(statements.listing(kind))

    def create_edit(
        self,
        name: str,
        neurons: NeuronSet,
        *,
        set_to: float | None = None,
        scale: float | None = None,
        shift: float | str | None = None,
        mean: bool = False,
        minimum: bool = False,
        noise: float | None = None,
        write_noise: float | None = None,
        where: str | Positions = EVERYWHERE,
        seed: int = 0,
        note: str | None = None,
    ) -> Edit:
        """Store an edit of these neurons, as the next version of its name: x <- gain * x + bias.

        set_to: a constant (0 ablates). scale, shift: the factor, the addition, also as `2sd`, twice the neuron's own
        standard deviation. mean, minimum: each neuron's own. These statistics are over all positions of the ingested
        examples, of the sources that the neurons were found from. noise: the standard deviation of Gaussian noise on
        the values, one draw of `seed` for each neuron and place (Sato & Takagi 2025). write_noise: of Gaussian noise on
        the write vectors (Pan et al. 2024). where: `role=image`, `phase=prefill`; see `atlas.edits.positions.Where`.
        seed: of the noise.

        Raises:
            UsageError: a bad name, no neurons, not exactly one kind of change, or no stored reference values.
        """
        from atlas.edits import library as edit_library

        return edit_library.create(
            self.path,
            name,
            neurons,
            set_to=set_to,
            scale=scale,
            shift=shift,
            mean=mean,
            minimum=minimum,
            noise=noise,
            write_noise=write_noise,
            where=where,
            seed=seed,
            note=note,
        )

    def complement(self, neurons: NeuronSet) -> NeuronSet:
        """Every other neuron of the same language model."""
        from atlas.edits import library as edit_library

        model = edit_library.model_row(self.path, neurons.provenance["fingerprint"])
        return everything_but(neurons, model["layers"], model["width"])

    def compose_edits(
        self, name: str, labels: Sequence[str], *, conflict: str = "error", note: str | None = None
    ) -> Edit:
        """Store one edit that does what several do; see `atlas.edits.compose.compose` for `conflict`.

        Raises:
            UsageError: fewer than two, an unknown edit, or edits that cannot be one.
        """
        from atlas.edits import library as edit_library

        return edit_library.composed(self.path, name, labels, conflict, note=note)

    def import_edit(self, file: str | Path, *, name: str | None = None) -> Edit:
        """Store an edit that someone handed on (`atlas edit export`), as the next version of its name or another.

        Raises:
            UsageError: no such file, or no edit; IntegrityError: damaged.
        """
        from atlas.edits import library as edit_library
        from atlas.edits.single_file import read_bundle

        edit = read_bundle(Path(file))
        return edit_library.store(self.path, edit if name is None else replace(edit, name=name))

    def edit(self, label: str) -> StoredEdit:
        """A stored edit: `name` for the newest version, `name@version` for one.

        Raises:
            UsageError: no such edit; IntegrityError: its file is damaged.
        """
        from atlas.edits import library as edit_library

        return edit_library.read(self.path, label)

    def remove_edit(self, label: str) -> list[str]:
        """Remove one version (`name@version`) or all versions of an edit; what was removed.

        Raises:
            UsageError: no such edit.
        """
        from atlas.edits import library as edit_library

        return edit_library.remove(self.path, label)
