"""The atlas as one class. Every question opens the database for the moment it takes, so ingest is never locked out."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import atlas.questions
from atlas import registry
from atlas.api.ask import method_of, question_named
from atlas.api.questions import Questions
from atlas.api.requests import Requests
from atlas.edits import set_expression
from atlas.edits.positions import EVERYWHERE, Positions
from atlas.query import pins, saved
from atlas.query.answer import Answer
from atlas.query.given import several
from atlas.query.neuron_set import NeuronSet, everything_but, require_neurons
from atlas.query.provenance import fingerprint_of
from atlas.query.question import Question
from atlas.query.saved import Selection
from atlas.store.atomic import expand_home
from atlas.store.database import open_readonly
from atlas.store.default_path import default_path
from atlas.store.pins_file import Pins, read

if TYPE_CHECKING:
    from atlas.edits.kinds import ChangeKind
    from atlas.edits.library import StoredEdit

A = TypeVar("A", bound=Answer)


class Atlas(Questions, Requests):
    """An atlas folder. `Atlas.open` checks that it is one; the object holds nothing open."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path | None = None, *, create: bool = False) -> Atlas:
        """The atlas at a path, with `~` as the home folder; by default `default_path()`.

        create: make an empty one where there is none.

        Raises:
            StoreUnavailable: there is no atlas, it is of another version, or it is being written.
        """
        folder = expand_home(path) if path is not None else default_path()
        if create:
            from atlas.store import create as store_create

            store_create.init(folder)
        with open_readonly(folder):
            return cls(folder)

    def __enter__(self) -> Atlas:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def use(self, model: str | None = None, *, dataset: str | None = None, runs: Sequence[str] = ()) -> Pins:
        """Pin what questions that leave it open are about: a model, a dataset, runs (by the beginnings of their ids).

        What is pinned already stays; without arguments, what is pinned. `use_nothing` unpins all.

        Raises:
            UsageError: the atlas has no such model, dataset or finished run.
        """
        if model is None and dataset is None and not runs:
            return read(self.path)
        return pins.pin(self.path, model=model, dataset=dataset, runs=several(runs))

    def use_nothing(self) -> None:
        """Unpin everything: questions are again about the newest model and dataset."""
        pins.clear(self.path)

    def ask(self, question: Question[A]) -> A:
        """The answer to a question of `atlas.questions`, which remembers what was asked."""
        return question.ask(self.path)

    def __getattr__(self, name: str) -> Any:
        """The method of a question that a plug-in adds."""
        if name.startswith("_") or name not in registry.names(atlas.questions):
            raise AttributeError(f"'Atlas' has no attribute '{name}'", name=name, obj=self)
        return method_of(question_named(name)).__get__(self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *registry.names(atlas.questions)})

    def _repr_html_(self) -> str:
        """Its line and its models, for a notebook."""
        return f"<div>{html.escape(repr(self))}</div>{self.models()._repr_html_()}"

    def __repr__(self) -> str:
        with open_readonly(self.path) as connection:
            rows = connection.execute(
                "SELECT (SELECT count(*) FROM models), (SELECT count(*) FROM runs), (SELECT count(*) FROM maps)"
            ).fetchall()
        kinds = zip(rows[0], ("model", "run", "map"), strict=True)
        return f"Atlas({self.path.resolve().name}: {', '.join(f'{n:,} {kind}' + 's' * (n != 1) for n, kind in kinds)})"

    def sql(self, statement: str, *, limit: int = 1000, timeout: float = 60.0) -> Answer:
        """One SELECT over the atlas's tables; it can read nothing else and change nothing.

        limit: of rows; `facts["truncated"]` says whether there are more. timeout: in seconds.

        Raises:
            UsageError: not one reading statement, or DuckDB refuses it.
            AtlasError: it took too long, or more memory than a reader has.
        """
        from atlas.api.user_sql import run_sql

        selected = run_sql(self.path, statement, limit=limit, timeout=timeout)
        more = f"the first {limit} rows; there are more, and a larger [[limit]] shows them"
        return Answer(selected.rows, facts={"truncated": selected.more}, notes=[more] if selected.more else [])

    def select(self, rule: str, concept: str | None = None, method: str | None = None, **more: Any) -> NeuronSet:
        """`query` with the rule first: `atlas.select("top:50", "dog") - atlas.select("top:50", "cat")`.

        Raises:
            UsageError: not a rule, a map that the atlas does not have.
        """
        return self.query(concept, method, select=rule, **more)

    def save_selection(
        self, name: str, neurons: NeuronSet, *, note: str | None = None, replace: bool = False
    ) -> Selection:
        """Keep a set of neurons under a name, with what it came from.

        Raises:
            UsageError: a bad name, no neurons, neurons of several models, or a name that is taken.
        """
        require_neurons(neurons)
        with open_readonly(self.path):  # there is an atlas
            return saved.save(self.path, name, neurons, note=note, replace=replace)

    def selection(self, expression: str) -> NeuronSet:
        """The neurons of saved selections and edits, joined by set algebra: `dog`, `dog & cat`, `(a | b) - c`.

        Raises:
            UsageError: not such an expression, a name that does not exist, or neurons of two models.
        """
        with open_readonly(self.path):  # there is an atlas
            return set_expression.of_expression(self.path, expression)

    def selections(self) -> Answer:
        """Every saved selection."""
        with open_readonly(self.path):
            return Answer(saved.listing(self.path))

    def remove_selection(self, name: str) -> None:
        """Remove a saved selection.

        Raises:
            UsageError: there is none.
        """
        with open_readonly(self.path):
            saved.remove(self.path, name)

    def create_edit(
        self,
        name: str,
        neurons: NeuronSet,
        kind: ChangeKind,
        *,
        where: str | Positions = EVERYWHERE,
        seed: int = 0,
        note: str | None = None,
    ) -> StoredEdit:
        """Store an edit of these neurons, as the next version of its name: x <- gain * x + bias.

        kind: what becomes of them: `ablate()`, `set_to(0.5)`, `scale(0.5)`, `steer(2, unit="sd")`, `mean()`,
        `minimum()`, `noise(0.1)` or `write_noise(0.1)`, all of `atlas.edits.kinds`. The statistics are over all
        positions of the ingested examples, of the sources that the neurons were found from. where: `role=image`,
        `phase=prefill`; see `atlas.edits.positions.Positions`. seed: of the noise.

        Raises:
            UsageError: a bad name, no neurons, or no stored reference values.
        """
        from atlas.edits import library as edit_library

        edit = edit_library.create(self.path, name, neurons, kind, where=where, seed=seed, note=note)
        return edit_library.StoredEdit(edit)

    def complement(self, neurons: NeuronSet) -> NeuronSet:
        """Every other neuron of the same language model."""
        from atlas.edits import library as edit_library

        require_neurons(neurons)
        model = edit_library.model_row(self.path, fingerprint_of(neurons.provenance))
        return everything_but(neurons, model["layers"], model["width"])

    def compose_edits(
        self, name: str, labels: Sequence[str], *, conflict: str = "error", note: str | None = None
    ) -> StoredEdit:
        """Store one edit that does what several do; see `atlas.edits.compose.compose` for `conflict`.

        Raises:
            UsageError: fewer than two, an unknown edit, or edits that cannot be one.
        """
        from atlas.edits import library as edit_library

        return edit_library.StoredEdit(edit_library.composed(self.path, name, labels, conflict, note=note))

    def import_edit(self, file: str | Path, *, name: str | None = None) -> StoredEdit:
        """Store an edit that someone shared (`atlas edit export`), as the next version of its name or another.

        Raises:
            UsageError: no such file, or it is not an edit; IntegrityError: damaged.
        """
        from atlas.edits import library as edit_library
        from atlas.edits.single_file import read_bundle

        edit = read_bundle(Path(file))
        stored = edit_library.store(self.path, edit if name is None else replace(edit, name=name))
        return edit_library.StoredEdit(stored)

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
