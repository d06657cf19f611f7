"""Names that users give, which become names of files."""

from __future__ import annotations

import re

from atlas.errors import UsageError


def check_name(name: str, what: str = "an edit") -> None:
    """Raise UsageError where a name cannot be that of a file, or would read as a version or a path."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"'{name}' cannot name {what}; use letters, digits, '.', '_' and '-', for example no-dog")
