"""Write the API's document for the docs: `python -m cli.web.write_openapi`. A test finds it out of date."""

from __future__ import annotations

import json
from pathlib import Path

from cli.web.app import build, openapi
from cli.web.settings import Settings

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


def text() -> str:
    """The document as it is written."""
    return json.dumps(openapi(build(Settings(Path()))), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
