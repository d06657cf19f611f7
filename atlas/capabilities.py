"""What works with which model family, as the tests found it on tiny random models of the real classes."""

from __future__ import annotations

import json
from importlib import resources

import pyarrow as pa

YES, ABSENT = "yes", "-"
"""A check that passed; what the family has not. Anything else is the reason why it is refused."""


def found() -> dict[str, dict[str, str]]:
    """Family -> check -> YES, ABSENT or a reason."""
    text = resources.files("atlas").joinpath("capabilities.json").read_text(encoding="utf-8")
    read: dict[str, dict[str, str]] = json.loads(text)
    return read


def table() -> pa.Table:
    """One row a family: YES, ABSENT or "no" for every check, and the reasons in `notes`."""
    rows = []
    for family, checks in found().items():
        short = {name: what if what in (YES, ABSENT) else "no" for name, what in checks.items()}
        notes = [f"{name}: {what}" for name, what in checks.items() if what not in (YES, ABSENT)]
        rows.append({"family": family, **short, "notes": "; ".join(notes)})
    return pa.Table.from_pylist(rows)
