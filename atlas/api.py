"""The atlas as one class. Every question opens the database for the moment it takes, so ingest is never locked out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas import queries
from atlas.choose import Chosen, choose_map, peers
from atlas.database import reading
from atlas.errors import UsageError
from atlas.neurons import Neuron
from atlas.queries import Query, Which
from atlas.selection import NeuronSet

if TYPE_CHECKING:
    from atlas.edits import Edit
    from atlas.stored import StoredEdit


def default_path() -> Path:
    """$NEURON_ATLAS, else `default.atlas` in the user's data folder."""
    if given := os.environ.get("NEURON_ATLAS"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_data_dir("neuron-atlas")) / "default.atlas"


@dataclass(frozen=True, slots=True)
class Shared:
    """Neurons in the top of two maps, and how many chance would give. only: in the first's top alone."""

    neurons: NeuronSet
    sources: tuple[str, ...]
    statistics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of one neuron: Arrow tables of its tokens, its best concepts, its strongest examples."""

    neuron: Neuron
    model: str
    tokens: pa.Table
    concepts: pa.Table
    exemplars: pa.Table


class Atlas:
    """An atlas folder. `Atlas.open` checks that it is one; the object holds nothing open."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def open(cls, path: str | Path | None = None, *, create: bool = False) -> Atlas:
        """The atlas at a path; by default `default_path()`. create: make an empty one where there is none.

        Raises:
            StoreUnavailable: there is no atlas, it is of another version, or it is being written.
        """
        folder = Path(path) if path is not None else default_path()
        if create:
            from atlas import store

            store.init(folder)
        with reading(folder):
            return cls(folder)

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def _ask(self, question: Query) -> pa.Table:
        with reading(self.path) as connection:
            return question.run(connection)

    def query(
        self,
        concept: str,
        method: str | None = None,
        *,
        source: str | None = None,
        target: str | None = None,
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
        layers: Sequence[int] = (),
        min_percentile: float | None = None,
        top: int = 20,
    ) -> NeuronSet:
        """The neurons that score best for a concept: component, layer, neuron, score, rank, percentile, decoded
        tokens, and which other methods have them among their `top` too.

        What is left open is filled in (the newest model, `contribution`, the image side, the contrast) and noted
        in the set's provenance under "assumed".

        Raises:
            UsageError: the atlas has no such map; the message has the nearest name.
        """
        which = Which(concept, method, source, target, reduce, model, dataset, run)
        return self.query_sql(which, layers=layers, min_percentile=min_percentile, top=top)[0]

    def query_sql(
        self, which: Which, *, layers: Sequence[int] = (), min_percentile: float | None = None, top: int = 20
    ) -> tuple[NeuronSet, Query]:
        """`query`, and the statement that answered it."""
        if top < 1:
            raise UsageError("--top must be at least 1")
        with reading(self.path) as connection:
            chosen = choose_map(connection, which)
            question = queries.top_neurons(
                chosen["map_id"],
                top=top,
                layers=layers,
                min_percentile=min_percentile,
                peers=peers(connection, chosen),
            )
            rows = question.run(connection)
        rule = {"top": top, "layers": list(layers), "min_percentile": min_percentile}
        return NeuronSet(rows, self._provenance([chosen], rule)), question

    def _provenance(self, chosen: Sequence[Chosen], rule: dict[str, Any]) -> dict[str, Any]:
        assumed = list(dict.fromkeys(a for c in chosen for a in c.assumed))
        maps = [c.summary() for c in chosen]
        return {"fingerprint": chosen[0]["fingerprint"], "maps": maps, "selection": rule, "assumed": assumed}

    def shared(
        self,
        concept: str,
        method: str | None = None,
        *,
        sources: Sequence[str] = ("image", "text"),
        only: str | None = None,
        reduce: str | None = None,
        model: str | None = None,
        dataset: str | None = None,
        run: str | None = None,
        top: int = 40,
    ) -> Shared:
        """The neurons in the top of a concept's maps of two sources; with `only`, in that source's top alone.

        The statistics count the shared neurons, what chance would give, the ratio of the two, and its p-value.

        Raises:
            UsageError: not two sources, or a map that the atlas does not have.
        """
        from atlas.selection import overlap_statistics

        if len(set(sources)) != 2 or (only is not None and only not in sources):
            raise UsageError("give two different --sources, for example image,text, and --only one of them")
        with reading(self.path) as connection:
            first = choose_map(connection, Which(concept, method, sources[0], None, reduce, model, dataset, run))
            names = ("method", "target", "reduce", "model", "dataset", "fingerprint", "tap")
            same = {name: first[name] for name in names}  # all that the second must have in common with it
            chosen = [first, choose_map(connection, Which(concept=concept, source=sources[1], run=run, **same))]
            ids = [c["map_id"] for c in chosen]
            both = queries.shared_neurons(ids, top=top).run(connection)
            rows = both
            if only is not None:
                mine = ids[list(sources).index(only)]
                rows = queries.shared_neurons(ids, top=top, only=mine).run(connection)
        sizes = [min(top, c["neurons"]) for c in chosen]
        statistics = {"shared": float(both.num_rows), "top": float(top)}
        statistics |= overlap_statistics(sizes, both.num_rows, max(c["neurons"] for c in chosen))
        rule = {"top": top, "shared": list(sources), "only": only}
        return Shared(NeuronSet(rows, self._provenance(chosen, rule)), tuple(sources), statistics)

    def neuron(
        self,
        address: str | Neuron,
        *,
        method: str | None = None,
        source: str | None = None,
        reduce: str | None = None,
        model: str | None = None,
        top: int = 5,
    ) -> Profile:
        """What is known of one neuron; method, source and reduce narrow its best concepts down.

        Raises:
            UsageError: not an address, or a neuron that the model does not have.
        """
        neuron = Neuron.parse(address) if isinstance(address, str) else address
        with reading(self.path) as connection:
            chosen = choose_map(connection, Which(method=method, source=source, reduce=reduce, model=model))
            if neuron.layer >= chosen["layers"] or neuron.index >= chosen["width"]:
                last = f"{chosen['layers'] - 1}/{chosen['width'] - 1}"
                raise UsageError(f"no neuron {neuron}; {chosen['model']} has neurons 0/0 to {last}")
            which = Which(method=method, source=source, reduce=reduce, model=chosen["model"])
            maps = queries.find_maps(which).run(connection).to_pylist()
            ids = [m["map_id"] for m in maps if m["model_id"] == chosen["model_id"]]
            return Profile(
                neuron,
                str(chosen["model"]),
                queries.decoded_tokens(neuron, chosen["model_id"]).run(connection),
                queries.best_concepts(neuron, ids, top=top).run(connection),
                queries.strongest_examples(neuron, chosen["model_id"]).run(connection),
            )

    def agreement(
        self, reference: str = "ablation", *, concept: str | None = None, source: str | None = None
    ) -> pa.Table:
        """How well each method's ranking of neurons follows the reference's: rank correlation, overlap of the tops."""
        return self._ask(queries.agreement(reference, Which(concept=concept, source=source)))

    def mapped(self, method: str, *, source: str, model: str | None = None) -> set[str]:
        """The concepts that have a map of this method and source."""
        found = self._ask(queries.find_maps(Which(method=method, source=source, model=model)))
        return set(found["concept"].to_pylist()) - {"*"}

    def listing(self, kind: str) -> pa.Table:
        """Everything of one kind: models, datasets, runs, concepts, edits, effects."""
        return self._ask(queries.listing(kind))

    def create_edit(
        self,
        name: str,
        neurons: NeuronSet,
        *,
        set_to: float | None = None,
        scale: float | None = None,
        shift: float | None = None,
        mean: bool = False,
    ) -> Edit:
        """Store an edit of these neurons, as the next version of its name: x <- gain * x + bias.

        set_to: a constant (0 ablates). scale, shift: the factor, the addition. mean: each neuron's mean value over
        all positions of the ingested examples, averaged over the sources that the neurons were found from.

        Raises:
            UsageError: a bad name, no neurons, not exactly one kind of change, or no stored means.
        """
        from atlas import stored

        return stored.create(self.path, name, neurons, set_to=set_to, scale=scale, shift=shift, mean=mean)

    def edit(self, label: str) -> StoredEdit:
        """A stored edit: `name` for the newest version, `name@version` for one.

        Raises:
            UsageError: no such edit; IntegrityError: its file is damaged.
        """
        from atlas import stored

        return stored.read(self.path, label)

    def remove_edit(self, label: str) -> list[str]:
        """Remove one version (`name@version`) or all versions of an edit; what was removed.

        Raises:
            UsageError: no such edit.
        """
        from atlas import stored

        return stored.remove(self.path, label)
