"""The contract of a figure: a module with `draw(answer, *, ax=None, ...)`, which draws an answer on matplotlib Axes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from io import BytesIO
from types import ModuleType
from typing import Any

from atlas.testing.contract import ContractError, Entry


def check_figure(module_or_draw: ModuleType | Callable[..., Any], answer: Any, *, name: str | None = None) -> None:
    """Check a figure, given as its module or its `draw`, with one answer that it can draw.

    It draws on the given Axes, or on its own where none are given, and returns them; both axes have a label or no
    ticks; the same answer gives the same picture; matplotlib's settings and open figures do not change.

    Raises:
        ContractError: the figure breaks its contract; the message names the figure and the fault.
    """
    import matplotlib

    draw = getattr(module_or_draw, "draw", None) if isinstance(module_or_draw, ModuleType) else module_or_draw
    module = module_or_draw.__name__ if isinstance(module_or_draw, ModuleType) else module_or_draw.__module__
    name = name or module.rpartition(".")[2]
    if not callable(draw):
        raise ContractError(f"{name}: its module {module} has no function draw")
    entry = Entry(name, draw, None)
    check_signature(entry, draw)
    settings = dict(matplotlib.rcParams)
    check_axes(entry, draw, answer)
    changed = [key for key, value in settings.items() if matplotlib.rcParams[key] != value]
    entry.require(not changed, f"it leaves matplotlib's settings changed: {', '.join(changed)}")


def check_signature(entry: Entry, draw: Callable[..., Any]) -> None:
    """The answer first, then keyword parameters with defaults, `ax` among them."""
    entry.require((inspect.getdoc(draw) or "").strip(), "draw has no docstring, which says what the figure shows")
    _, *others = inspect.signature(draw).parameters.values()
    for parameter in others:
        by_keyword = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
        entry.require(by_keyword, f"draw's {parameter.name} is not a keyword parameter with a default")
    defaults = {parameter.name: parameter.default for parameter in others}
    entry.require("ax" in defaults and defaults["ax"] is None, "draw has no keyword parameter ax=None")


def check_axes(entry: Entry, draw: Callable[..., Any], answer: Any) -> None:
    """It draws on the given Axes, labels both axes, and draws the same again."""
    import matplotlib.pyplot as plt

    open_before = plt.get_fignums()
    shown = plt.show
    plt.show = _refuse_to_show
    try:
        pictures = []
        for _ in range(2):
            figure, axes = plt.subplots()
            children = len(axes.get_children())
            returned = draw(answer, ax=axes)
            entry.require(returned is axes, "draw does not return the Axes it was given")
            entry.require(len(axes.get_children()) > children, "nothing is drawn on the Axes it was given")
            for axis in (axes.xaxis, axes.yaxis):
                labelled = axis.get_label_text() or not len(axis.get_ticklocs())
                entry.require(labelled, f"its {axis.axis_name} axis has ticks and no label")
            with BytesIO() as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a font may lack a character
                figure.savefig(file, format="raw", dpi=50)
                pictures.append(file.getvalue())
            plt.close(figure)
        entry.require(pictures[0] == pictures[1], "the same answer gives another picture the second time")
        own = draw(answer)
        entry.require(hasattr(own, "get_figure"), "without ax, draw does not return Axes of its own")
        plt.close(own.get_figure())
        entry.require(plt.get_fignums() == open_before, "draw leaves a figure open besides the one it returns")
    except _ShownError:
        raise ContractError(f"{entry.name}: draw calls plt.show; leave that to the caller") from None
    finally:
        plt.show = shown
        for number in set(plt.get_fignums()) - set(open_before):
            plt.close(number)


class _ShownError(Exception):
    """`plt.show` was called."""


def _refuse_to_show(*_: Any, **__: Any) -> None:
    raise _ShownError
