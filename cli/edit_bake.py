"""Being written."""


def bake() -> None:
    """Being written."""


def unbake() -> None:
    """Being written."""
