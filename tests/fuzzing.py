"""Inputs that nobody would write: valid ones that were damaged, and noise. All from a seed."""

from __future__ import annotations

import copy
import json
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NASTY: tuple[Any, ...] = (None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(10**30), 0.5, 1e308, float("nan"))
NASTY += (float("inf"), "", "0", "\0", "a\nb", "\ud800", "\u202e", "é", "😀", "٣", "x" * 5000, "../../x", "NaN", "null")
NASTY += ([], {}, [[]], [None], {"": None}, [[[[[[]]]]]], ["a", 1, None], {"a": {"b": {"c": [1]}}})
DEEP = 10_000
LIMIT = 5.0
"""Seconds for one input."""

_PIECES = (
    "and",
    "or",
    "not",
    "in",
    "(",
    ")",
    "=",
    "!=",
    "<",
    ">=",
    ",",
    ";",
    ":",
    "/",
    "-",
    "&",
    "|",
    "*",
    "?",
    "@",
    "'",
)
_PIECES += (
    '"',
    "\\",
    " ",
    "\t",
    "\n",
    "\0",
    "0",
    "9" * 30,
    "9" * 500,
    "1e400",
    "1_0",
    "nan",
    "inf",
    "-0",
    "٣",
    "é",
    "\ud800",
)
_PIECES += (
    "layer",
    "concept",
    "score",
    "token",
    "dog",
    "role",
    "image",
    "position",
    "phase",
    "top",
    "z",
    "[",
    "{",
    "}",
    "]",
)


def text(draw: random.Random, pieces: Sequence[str]) -> str:
    """Words of a language, and noise, in no order."""
    found = []
    for _ in range(draw.choice((0, 1, 2, 3, 5, 8, 20))):
        kind = draw.random()
        if kind < 0.5:
            found.append(draw.choice(pieces))
        elif kind < 0.85:
            found.append(draw.choice(_PIECES))
        else:
            found.append("".join(chr(draw.randrange(0x110000)) for _ in range(draw.randrange(4))))
        found.append(draw.choice(("", "", " ")))
    return "".join(found)


def damaged(draw: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut, doubled, moved or put in."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        if not found:
            break
        at, end = sorted(draw.randrange(len(found) + 1) for _ in range(2))
        kind = draw.randrange(7)
        if kind == 0:
            found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del found[at:]
        elif kind == 2:
            found[at:at] = found[at : min(end, at + 200)]
        elif kind == 3:
            del found[at : min(end, at + 40)]
        elif kind == 4:
            found[at:at] = draw.choice(_PIECES).encode(errors="surrogatepass")
        elif kind == 5:
            found[at : at + 4] = draw.randbytes(4)
        else:
            found[at:at] = draw.choice((b"[", b'{"a":')) * draw.choice((1, 3, DEEP))
    return bytes(found)


def swapped(draw: random.Random, value: Any) -> Any:
    """A plain object with some part of it replaced, removed, doubled or put elsewhere."""
    found = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = list(_places(found))
        if not places:
            return copy.deepcopy(draw.choice(NASTY))
        holder, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.65:
            holder[key] = copy.deepcopy(draw.choice(NASTY))  # it may be changed itself
        elif kind < 0.75:
            del holder[key]
        elif kind < 0.85:
            other, its = draw.choice(places)
            # What was put below itself would have no end.
            holder[key] = json.loads(json.dumps(other[its])) if its in other or isinstance(its, int) else None
        elif kind < 0.87:
            holder[key] = deep()
        elif isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[draw.choice(("", "x", "\0", "id", "name"))] = holder[key]
    return found


def deep(levels: int = 200) -> Any:
    """As deep as JSON can be written; deeper ones are made as text."""
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def as_bytes(value: Any) -> bytes:
    """JSON, also where it is more than JSON."""
    try:
        return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")
    except RecursionError:
        return b"[" * DEEP


@contextmanager
def in_time(what: object) -> Iterator[None]:
    """Fail where the block takes longer than any input may."""

    def late(*_: object) -> None:
        raise AssertionError(f"this input hangs: {str(what)[:500]!r}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def feed(
    number: int, make: Callable[[random.Random], Any], read: Callable[[Any], Any], again: Callable[[Any], Any] | None
) -> int:
    """Give a parser so many inputs: each gives a value or an error of the project's own. How many gave a value.

    again: writes and reads a value, which must give an equal one.
    """
    from atlas.errors import AtlasError

    valid, harm = 0, {}
    for seed in range(number):
        given = make(random.Random(f"fuzz {seed}"))
        with in_time(given):
            try:
                value = read(given)
            except AtlasError as error:
                assert str(error)
                continue
            except Exception as error:
                harm.setdefault(f"{type(error).__name__}: {str(error)[:80]}", repr(given)[:300])
                continue
            valid += 1
            # By what they show: NaN is not equal to itself.
            if again is not None and repr(again(value)) != repr(value):
                harm.setdefault(f"{str(value)[:200]!r} reads back as another", repr(given)[:300])
    assert not harm, "\n".join(f"{what}   {shown}" for what, shown in harm.items())
    return valid


def texts(*valid: str) -> Callable[[random.Random], str]:
    """Valid texts damaged, and their words in no order."""
    # In the order they are said: a set's order is another in every process, and so would be the texts.
    pieces = tuple(
        dict.fromkeys(piece for whole in valid for piece in [whole, *whole.replace(":", " ").replace("=", " ").split()])
    )

    def make(draw: random.Random) -> str:
        if draw.random() < 0.5:
            data = damaged(draw, draw.choice(valid).encode())
            return data.decode(errors=draw.choice(("replace", "surrogateescape")))
        return text(draw, pieces)

    return make


def objects(*valid: Any) -> Callable[[random.Random], bytes]:
    """Plain objects as JSON, damaged as objects or as bytes."""

    def make(draw: random.Random) -> bytes:
        chosen = draw.choice(valid)
        return as_bytes(swapped(draw, chosen)) if draw.random() < 0.7 else damaged(draw, as_bytes(chosen))

    return make


def a_file(file: Path, read: Callable[[], Any]) -> Callable[[bytes], Any]:
    def written(data: bytes) -> Any:
        file.write_bytes(data)
        return read()

    return written
