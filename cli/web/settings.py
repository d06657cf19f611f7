"""What a server is for and who may use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from atlas.errors import UsageError
from ingest.requests.load_model import LoadModel

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names of this machine to itself."""


@dataclass(frozen=True, slots=True)
class Settings:
    """path: the atlas. host, port: where it listens. names: further names by which browsers may call it, beside the
    host's own and those of this machine. origins: of other sites whose pages may read its answers. token: what every
    request must have; None where nothing is asked for. seconds: that a question may take. static: whether pages are
    written to files, so that they have everything at once and no forms. live: the model that the live page
    asks, and how it is loaded; without a model there is no such page. write: whether that page may save what it found.

    Raises:
        UsageError: a live model without a token, or something to write without a live model.
    """

    path: Path
    host: str = "127.0.0.1"
    port: int = 8501
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str | None = field(default=None, repr=False)
    seconds: float = 20.0
    static: bool = False
    live: LoadModel = field(default_factory=LoadModel)
    write: bool = False

    def __post_init__(self) -> None:
        if self.live.model is not None and not self.token:
            raise UsageError("a server with a live model answers only to those who have its token; give one")
        if self.write and self.live.model is None:
            raise UsageError("[[write]] lets the live page save what it found; give its [[model]]")

    @property
    def hosts(self) -> frozenset[str]:
        """The names that a Host header may have, in lower case."""
        return frozenset(name.lower() for name in (*LOOPBACK, self.host, *self.names))
