"""How a derived method of `Atlas` is called and documented: as the class of its question or request is."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from atlas.query.option import name_of


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


def documented_as(kind: Callable[..., Any], method: Callable[..., Any], gives: Any = inspect.Signature.empty) -> None:
    """Give a method the name, documentation, parameters and types of the class that it makes.

    gives: what it returns.
    """
    own = inspect.signature(kind).parameters.values()
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__doc__ = kind.__doc__
    method.__name__ = method.__qualname__ = name_of(kind)
    method.__signature__ = inspect.Signature([first, *own], return_annotation=gives)  # type: ignore[attr-defined]
    returned = {} if gives is inspect.Signature.empty else {"return": gives}
    method.__annotations__ = {p.name: p.annotation for p in own} | returned
