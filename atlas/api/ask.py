"""From a question's class to a method: the same names, types, defaults and documentation."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import atlas.questions
from atlas import plugins, registry
from atlas.api.call import check_call, documented_as
from atlas.errors import AtlasError
from atlas.query.answer import Answer
from atlas.query.option import name_of
from atlas.query.question import Question

P = ParamSpec("P")
A = TypeVar("A", bound=Answer)


class Asks(Protocol):
    """What a question can be put to."""

    def ask(self, question: Question[A]) -> A: ...


def method_of(question: Callable[P, Question[A]]) -> Callable[Concatenate[Any, P], A]:
    """A method that asks a question, with its signature; type checkers see it through the ParamSpec."""

    def method(self: Asks, /, *args: P.args, **kwargs: P.kwargs) -> A:
        check_call(name, taken, *args, **kwargs)
        return self.ask(question(*args, **kwargs))

    name, taken = name_of(question), inspect.signature(question)
    documented_as(question, method, inspect.signature(question.answer).return_annotation)  # type: ignore[attr-defined]
    method.question = question  # type: ignore[attr-defined]
    return method


def question_named(name: str) -> type[Question[Any]]:
    """The class of a question, by the name of its file.

    Raises:
        UsageError: there is none.
        AtlasError: a plug-in's that cannot be used.
    """
    if name in registry.folder_names(atlas.questions):  # plug-ins are not looked for: that takes longer than a question
        return question_in(importlib.import_module(f"atlas.questions.{name}"))
    module, plugin = registry.load(atlas.questions, name), registry.origin(atlas.questions, name)
    try:
        return question_in(module)
    except TypeError as error:
        raise AtlasError(plugins.broken(plugin, str(error)) if plugin else str(error)) from error


def question_in(module: Any) -> type[Question[Any]]:
    """The one question that a module defines.

    Raises:
        TypeError: it defines none, or several.
    """
    questions = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Question) and value.__module__ == module.__name__
    ]
    if len(questions) != 1:
        raise TypeError(f"{module.__name__} defines {len(questions)} questions; the file of a question defines one")
    return questions[0]
