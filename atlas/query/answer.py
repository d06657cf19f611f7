"""The answer to a question: rows with documented columns, and facts about all of them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, overload

import pyarrow as pa

from atlas import registry
from atlas.errors import Unsupported, UsageError
from atlas.neurons import Neuron
from atlas.query.html import line_html, table_html
from atlas.query.option import name_of
from atlas.query.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

ADDRESS = ("component", "layer", "neuron")
"""The columns of an answer whose rows are neurons."""


class Answer:
    """Rows, and facts about the answer as a whole. The command line, notebooks and programs all show this object.

    table: the rows. provenance: which maps or runs they came from, and what was left open and filled in (`defaults`).
    facts: numbers and names about the whole answer, such as a lift and its p-values. notes: sentences for a person.
    parts: further tables by name. sql: the statement that was run, if there was one. brief: the rows to print, where
    they are fewer columns than `table`. question: what was asked, or what gives these rows again; None where the answer
    came from none.
    """

    def __init__(
        self,
        table: pa.Table,
        provenance: Provenance | None = None,
        *,
        facts: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
        parts: Mapping[str, pa.Table] | None = None,
        sql: str | None = None,
        brief: pa.Table | None = None,
    ):
        self.table = table
        self.provenance: Provenance = {**provenance} if provenance else {}
        self.facts: dict[str, Any] = dict(facts or {})
        self.notes = tuple(notes)
        self.parts: dict[str, pa.Table] = dict(parts or {})
        self.sql = sql
        self.brief = brief
        self.question: object = None

    @property
    def defaults(self) -> tuple[str, ...]:
        """What was left open and filled in: `reduce=contrast (also stored: mean)`."""
        return tuple(self.provenance.get("assumed", ()))

    @property
    def next(self) -> str | None:
        """The `after` of the next page: a cursor behind the last row; None on the last page."""
        cursor = self.provenance.get("next")
        return None if cursor is None else str(cursor)

    @property
    def heading(self) -> str:
        """What a person reads above the tables; often nothing."""
        return ""

    def readable(self) -> dict[str, pa.Table]:
        """The tables to print, by heading; the main rows have an empty heading."""
        return {"": self.table if self.brief is None else self.brief}

    @cached_property
    def neurons(self) -> tuple[Neuron, ...]:
        """The neurons of the rows, in their order.

        Raises:
            UsageError: the rows are not neurons.
        """
        if not set(ADDRESS) <= set(self.table.column_names):
            raise UsageError(f"the rows of this answer are not neurons; they have {', '.join(self.table.column_names)}")
        columns = (self.table[name].to_pylist() for name in ADDRESS)
        return tuple(Neuron(*address) for address in zip(*columns, strict=True))

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table."""
        return self.table

    def to_pylist(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        rows: list[dict[str, Any]] = self.table.to_pylist()
        return rows

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a pandas frame.

        Raises:
            Unsupported: pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise Unsupported("to_pandas needs pandas (pip install pandas); to_arrow does not")
        return self.table.to_pandas()

    def plot(self, **options: Any) -> Any:
        """Draw the answer by the figure of its question's name, in the atlas's style; returns matplotlib's Axes.

        options: of the figure's `draw`; ax: Axes to draw on, by default those of a new figure, whose caption names the
        runs.

        Raises:
            UsageError: no figure shows such an answer, or it has no rows.
            Unsupported: matplotlib is not installed.
        """
        figures = importlib.import_module("atlas.figures")
        known = registry.names(figures)
        name = None if self.question is None else name_of(self.question)
        if name not in known:
            raise UsageError(
                f"no figure shows {'this answer' if name is None else f'an answer of {name}'}; "
                f"there are figures of {', '.join(known)}"
            )
        if not len(self):
            raise UsageError("the answer has no rows; there is nothing to draw")
        style = importlib.import_module("atlas.figures._style")
        with style.styled():
            axes = registry.load(figures, name).draw(self, **options)
            if options.get("ax") is None:
                style.add_caption(axes.figure, self)
        return axes

    def head(self, count: int = 5) -> Self:
        """The first rows."""
        return self[:count]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, key: str) -> pa.ChunkedArray: ...
    @overload
    def __getitem__(self, key: slice) -> Self: ...
    @overload
    def __getitem__(self, key: int) -> Any: ...
    def __getitem__(self, key: str | slice | int) -> Any:
        """A column by its name, a slice of the rows with everything else unchanged, or one row: a dictionary, of a
        set of neurons the neuron.

        Raises:
            KeyError: no such column; IndexError: no such row.
        """
        if isinstance(key, str):
            if key not in self.table.column_names:
                raise KeyError(f"no column '{key}'; there are: {', '.join(self.table.column_names)}")
            return self.table[key]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._like(self.table.take(pa.array(range(start, stop, step), pa.int64())))
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(f"an answer has columns by name, rows by number and slices; not {type(key).__name__}")
        index = key.__index__()
        if not -len(self) <= index < len(self):
            raise IndexError(f"no row {index}; the answer has {len(self)}")
        return self._row(index % len(self))

    def _row(self, index: int) -> Any:
        """One row as a dictionary."""
        return self.table.slice(index, 1).to_pylist()[0]

    def _like(self, table: pa.Table) -> Self:
        """The same answer with other rows."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.__dict__.pop("neurons", None)
        new.table, new.brief = table, None
        return new

    def __repr__(self) -> str:
        names = ", ".join(self.table.column_names[:8])
        more = ", ..." if len(self.table.column_names) > 8 else ""
        return f"{type(self).__name__}({len(self)} rows: {names}{more})"

    def _repr_html_(self) -> str:
        """The first rows, the defaults and the notes, for a notebook; everything that came from data is escaped."""
        above = line_html(self.heading) if self.heading else ""
        tables = "".join(table_html(table, name) for name, table in self.readable().items())
        lines = (*(f"using {text}" for text in self.defaults), *self.notes)
        return above + tables + "".join(map(line_html, lines))
