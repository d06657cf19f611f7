"""Ctrl-C as a KeyboardInterrupt, whatever library it interrupts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, turn an error that Ctrl-C caused into a KeyboardInterrupt.

    Native code that calls back into Python (safetensors, duckdb, tokenizers) may be interrupted there and report it as
    an error of its own kind. Only the main thread receives Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    interrupted = False

    def note_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        handler(number, frame)

    signal.signal(signal.SIGINT, note_interrupt)
    try:
        yield
    except Exception as error:
        if interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, handler)
