"""A limit on the seconds that questions take, for a server whose users do not wait for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import duckdb

from atlas.errors import AtlasError

_deadline: ContextVar[tuple[float, float] | None] = ContextVar("deadline", default=None)


class TookTooLong(AtlasError):
    """A question needed more time than it was given."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Statements of the block that are not done after so many seconds are interrupted.

    Raises:
        TookTooLong: the time was over while a connection of `atlas.store.database.open_readonly` was open.
    """
    token = _deadline.set((time.monotonic() + seconds, seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def limited(driver: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Keep the limit that is set here on a connection; without one, nothing is done."""
    if (limit := _deadline.get()) is None:
        yield
        return
    deadline, seconds = limit
    over = threading.Event()

    def stop() -> None:
        over.set()
        driver.interrupt()

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        if over.is_set():
            raise _too_long(seconds) from error
        raise
    finally:
        timer.cancel()
        timer.join()  # a late interrupt would hit whoever has the connection next
    if over.is_set():
        raise _too_long(seconds)


def _too_long(seconds: float) -> TookTooLong:
    return TookTooLong(f"the question took longer than {seconds:g} s; ask for less, or ask on the command line")
