"""Which neurons of a multimodal language model carry a concept, in which modality, how do we know, and what
happens without them.

    from atlas import Atlas

    with Atlas.open() as atlas:
        dog = atlas.query(concept="dog", method="contribution", source="image", top=50)

Importing this package loads neither torch nor a database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.api.atlas import Atlas as Atlas

__all__ = ["Atlas"]


def __getattr__(name: str) -> Any:
    if name == "Atlas":
        from atlas.api.atlas import Atlas

        return Atlas
    raise AttributeError(f"module 'atlas' has no attribute '{name}'")
