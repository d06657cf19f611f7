"""A question as it is asked elsewhere: on the command line, in Python, in an address."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import urlencode

from atlas.query.option import REPEATED, name_of, options_of
from atlas.query.question import Question
from cli.main import WITHIN
from cli.options import flags_of


def command_line(question: Question[Any]) -> str:
    """`atlas query --concept dog --top 5`."""
    name, flags, described = name_of(question), flags_of(type(question)), options_of(type(question))
    words = ["atlas", *WITHIN.get(name, name.replace("_", "-")).split()]
    options: list[str] = []
    for field, value in question.given().items():
        if described[field].argument:
            words.append(_text(value))
        elif value is True:
            options.append(flags[field])
        elif value is not None and value is not False:
            parts = value if described[field].several == REPEATED else [_text(value)]
            options += [word for part in parts for word in (flags[field], str(part))]
    return shlex.join([*words, *options])


def python(question: Question[Any]) -> str:
    """`atlas.query(concept='dog', top=5)`."""
    described = options_of(type(question))
    words = [
        repr(value) if described[name].argument else f"{name}={value!r}" for name, value in question.given().items()
    ]
    return f"atlas.{name_of(question)}({', '.join(words)})"


def parameters(question: Question[Any]) -> str:
    """`concept=dog&top=5`: the parameters of an address."""
    return urlencode([(name, _text(value)) for name, value in question.given().items() if value is not None])


def _text(value: Any) -> str:
    """A value as one text: several with commas between."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
