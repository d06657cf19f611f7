"""Shared by all contract tests: the entry under test, the error that names it, and a model that must not change."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from PIL import Image

from atlas.errors import UsageError
from atlas.live.model import LiveModel
from atlas.testing.models import build_llava, build_opt


class ContractError(AssertionError):
    """An entry does not keep its contract."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The entry under test. build: makes it. module: where `build` is defined, if it is a module's."""

    name: str
    build: Callable[..., Any]
    module: ModuleType | None

    def require(self, holds: object, fault: str) -> None:
        """Raise ContractError, with the entry's name and the fault, where a condition does not hold."""
        if not holds:
            raise ContractError(f"{self.name}: {fault}")

    @contextmanager
    def refused(self, what: str, kind: type[Exception] = UsageError, *, matching: str = "") -> Iterator[None]:
        """Raise ContractError where the block does not raise this kind of error with a message that matches the
        pattern."""
        try:
            yield
        except kind as error:
            matches = re.search(matching, str(error))
            self.require(matches, f"{what} is refused with '{error}', which does not say '{matching}'")
            return
        except Exception as error:
            raise ContractError(f"{self.name}: {what} raises {type(error).__name__}, not {kind.__name__}") from error
        raise ContractError(f"{self.name}: {what} is accepted; it must raise {kind.__name__}")


def entry_of(module_or_build: ModuleType | Callable[..., Any], name: str | None = None) -> Entry:
    """An entry from its module or the module's `build`; named like the module, unless a name is given.

    Raises:
        ContractError: a module without `build`.
    """
    if not isinstance(module_or_build, ModuleType):
        module = sys.modules.get(module_or_build.__module__)
        own = module if getattr(module, "build", None) is module_or_build else None
        return Entry(name or module_or_build.__module__.rpartition(".")[2], module_or_build, own)
    name = name or module_or_build.__name__.rpartition(".")[2]
    build = getattr(module_or_build, "build", None)
    if not callable(build):
        raise ContractError(f"{name}: its module {module_or_build.__name__} has no function build")
    return Entry(name, build, module_or_build)


def check_build(entry: Entry, *, positional: tuple[str, ...] = ()) -> None:
    """`build` takes keyword parameters whose defaults a command line can give, and is documented; the first line of the
    module's docstring is what a list shows.

    positional: the parameters that come before them.
    """
    if entry.module is not None:
        entry.require((entry.module.__doc__ or "").strip(), "its module has no docstring, whose first line is listed")
    entry.require((inspect.getdoc(entry.build) or "").strip(), "build has no docstring, which explains its parameters")
    parameters = list(inspect.signature(entry.build).parameters.values())
    by_position = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    entry.require(
        by_position == positional, f"build takes {by_position} by position, not {positional}; put a * before the others"
    )
    for parameter in parameters[len(positional) :]:
        plain = isinstance(parameter.default, str | int | float | bool)
        entry.require(plain, f"build's {parameter.name} has no default of a plain type (text, number, yes or no)")


@contextmanager
def untouched(entry: Entry, live: LiveModel) -> Iterator[None]:
    """Raise ContractError where the block leaves a hook, a changed weight, a gradient or another mode behind, also when
    it raises."""
    shown = [Image.new("RGB", (12, 10))] if "image" in live.takes else []
    with torch.no_grad():  # transformers adds a few hooks of its own at the first pass of each part of a model
        live.forward(live.batch([live.encoder.prompt("a", shown, "a")]))
    hooks, training = count_hooks(live.model), live.model.training
    weights = [(p.detach().clone(), p.requires_grad) for p in live.model.parameters()]
    try:
        yield
    finally:
        entry.require(count_hooks(live.model) == hooks, "a hook is left on the model")
        entry.require(live.model.training == training, "the model is left in another mode (training or evaluation)")
        for (before, trained), now in zip(weights, live.model.parameters(), strict=True):
            entry.require(torch.equal(before, now), "a weight of the model has changed")
            entry.require(now.grad is None, "a weight of the model is left with a gradient")
            entry.require(now.requires_grad == trained, "a weight's requires_grad has changed")


def count_hooks(model: torch.nn.Module) -> int:
    """The number of hooks on a model's modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


class PlantedFailureError(Exception):
    """Raised by a model in the middle of a pass, for a test."""


@contextmanager
def failing(live: LiveModel) -> Iterator[None]:
    """While the block lasts, the last layer raises PlantedFailureError instead of running."""

    def fail(*_: Any, **__: Any) -> Any:
        raise PlantedFailureError("planted by the contract test")

    layer: Any = live.layout.layers[-1]
    layer.forward = fail
    try:
        yield
    finally:
        del layer.forward


def is_planted(error: BaseException) -> bool:
    """Whether an error is the planted failure, or was raised because of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PlantedFailureError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


@cache
def tiny(name: str) -> LiveModel:
    """A tiny random model: "llava", which takes pictures and has a gated FFN, or "opt", with a plain one and biases."""
    builders: dict[str, Callable[[], tuple[Any, Any]]] = {"llava": build_llava, "opt": build_opt}
    model, processor = builders[name]()
    return LiveModel(model, processor, name=f"random-{name}")
