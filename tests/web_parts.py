"""A server of an atlas for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BASE = "http://127.0.0.1:8501"


@contextmanager
def served(path: Path, **settings: Any) -> Iterator[Any]:
    """A client of a server of the atlas at a path. settings: of `cli.web.settings.Settings`."""
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    from cli.web.app import build
    from cli.web.settings import Settings

    with TestClient(build(Settings(path, **settings)), base_url=BASE, follow_redirects=False) as client:
        yield client


def model_path(path: Path) -> str:
    """The newest model's name as a part of an address."""
    from atlas.api.atlas import Atlas
    from cli.web.links import part

    return part(str(Atlas(path).models()[-1]["name"]))
