"""What a method of `Atlas` is called with: refused by the method's own name, with the nearest keyword."""

from __future__ import annotations

import difflib
import inspect
from typing import Any


def check_call(name: str, signature: inspect.Signature, /, *args: Any, **kwargs: Any) -> None:
    """Refuse arguments that a signature does not take.

    Raises:
        TypeError: as Python's own, with the nearest keyword: `query() got an unexpected keyword argument 'methd'; did
            you mean 'method'?`
    """
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        unexpected = next((given for given in kwargs if given not in signature.parameters), None)
        near = difflib.get_close_matches(unexpected or "", signature.parameters, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise TypeError(f"{name}() {error}{hint}") from None
