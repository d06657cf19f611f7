"""The examples on which a neuron has its largest values, as a notebook shows them: with their pictures."""

from __future__ import annotations

import importlib
from pathlib import Path

from atlas.errors import AtlasError
from atlas.missing_extra import missing_extra
from atlas.query.answer import Answer
from atlas.query.html import SHOWN_ROWS, image_html, line_html

WIDTH = 128
"""Pixels of a picture's longer side in a notebook."""


class Strongest(Answer):
    """One row an example, by source and rank. A notebook shows the pictures too, from their files; `Profile.gallery`
    runs the model to lay the neuron's activation on them."""

    path: Path

    def _repr_html_(self) -> str:
        return super()._repr_html_() + self._pictures()

    def _pictures(self) -> str:
        """The pictures of the rows, and in words what cannot be shown."""
        rows = [row for row in self.table.slice(0, SHOWN_ROWS).to_pylist() if row["media"]]
        if not rows:
            return ""
        try:
            thumbnails = importlib.import_module("ingest.run.thumbnails")
            shown = thumbnails.thumbnails(self.path, [row["example"] for row in rows], WIDTH)
        except (ModuleNotFoundError, AtlasError) as error:
            needed = missing_extra(error)
            if needed is None and not isinstance(error, AtlasError):
                raise
            return line_html(f"the pictures need {needed}" if needed else f"the pictures cannot be shown: {error}")
        images, problems = [], []
        for row in rows:
            data, problem = shown[row["example"]]
            words = f"{row['source']} {row['rank']}: {row['value']:.3g} at {row['token']!r}; {row['prompt']}"
            if data is not None:
                images.append(image_html(data, words))
            elif problem is not None:
                problems.append(line_html(f"{row['source']} {row['rank']}: {problem}"))
        return f"<div>{' '.join(images)}</div>{''.join(problems)}"
