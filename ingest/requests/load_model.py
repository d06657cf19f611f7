"""A model and its processor, as HuggingFace has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atlas.query.option import by_place, described
from ingest.requests.generate import MODEL
from ingest.requests.options import LoadOptions, ModelOptions, load
from ingest.requests.progress import Progress, silent
from ingest.requests.request import Request


@described
class LoadModel(Request[tuple[Any, Any]], LoadOptions, ModelOptions):
    """A HuggingFace model and its processor (or tokenizer), ready for `edit.on(model)`.

    Raises:
        UsageError, Unsupported: it cannot be loaded.
    """

    model: str | None = by_place(ModelOptions, "model", default=None, kw_only=False)

    def perform(self, path: Path | None = None, progress: Progress = silent) -> tuple[Any, Any]:
        """path: not needed; no atlas is read."""
        live = load(self, MODEL)
        return live.model, live.encoder.processor
