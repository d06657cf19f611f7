"""A module that could not be imported, as the extra that brings it.

Which distribution belongs to which extra is read from the installed metadata, which has it from `pyproject.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

NAME = "neuron-atlas"
NAMED_OTHERWISE = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "sklearn": "scikit-learn",
}
"""Module -> distribution, where their names differ by more than case and punctuation."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)[^;]*;.*extra *== *['\"]([^'\"]+)['\"]")


def missing_extra(error: BaseException) -> str | None:
    """What to install where a module of an extra is not installed: "torch: pip install 'neuron-atlas[ingest]'".

    None for any other error: a module that no extra brings, or one that is installed and fails while it is imported.
    """
    import importlib.util

    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    if importlib.util.find_spec(module) is not None:
        return None
    distribution = distribution_of(module)
    extra = extra_of(distribution, requirements())
    return None if extra is None else f"{distribution}: pip install '{NAME}[{extra}]'"


def requirements() -> list[str]:
    """What the installed metadata requires, as in `torch>=2.13; extra == 'ingest'`; nothing without metadata."""
    from importlib import metadata

    try:
        return metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        return []


def distribution_of(module: str) -> str:
    """The normalised name of the distribution that has a top-level module.

    >>> distribution_of("huggingface_hub"), distribution_of("PIL")
    ('huggingface-hub', 'pillow')
    """
    return NAMED_OTHERWISE.get(module, re.sub(r"[-_.]+", "-", module).lower())


def extra_of(distribution: str, required: Iterable[str]) -> str | None:
    """The smallest extra that brings a distribution, and of several the first by name; None where no extra does.

    required: requirements as the metadata has them.

    >>> lines = ["numpy>=2", "torch>=2; extra == 'all'", "torch>=2; extra == 'ingest'", "peft>=1; extra == 'all'"]
    >>> extra_of("torch", lines), extra_of("numpy", lines)
    ('ingest', None)
    """
    extras: dict[str, set[str]] = {}
    for line in required:
        if match := _REQUIREMENT.match(line):
            extras.setdefault(match[2], set()).add(distribution_of(match[1]))
    having = [(len(brought), extra) for extra, brought in extras.items() if distribution in brought]
    return min(having)[1] if having else None
