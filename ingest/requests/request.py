"""A request: what a command or a method of `Atlas` asks to be done with a model, and how it is done."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

from ingest.requests.options import JobOptions
from ingest.requests.progress import Progress, silent

R = TypeVar("R", covariant=True)


class Request(JobOptions, Generic[R]):
    """What can be asked for. A request is a frozen dataclass whose fields are made by `option` and `required`; nothing
    that needs torch is imported before it is performed."""

    @abstractmethod
    def perform(self, path: Path, progress: Progress = silent) -> R:
        """Do it in the atlas at a path.

        Raises:
            UsageError: it cannot be done as it is asked; the message names the field.
            AtlasError: of any kind; what had been computed by then is kept where the request says so.
        """
