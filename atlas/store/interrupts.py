"""Ctrl-C is a KeyboardInterrupt, whatever library it lands in."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block an error that Ctrl-C caused is a KeyboardInterrupt.

    Native code that calls back into Python (safetensors, duckdb, tokenizers) may meet the interrupt there and report
    it as an error of its own kind. Outside the main thread there is no Ctrl-C to meet.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    asked = False

    def noted(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        usual(number, frame)

    signal.signal(signal.SIGINT, noted)
    try:
        yield
    except Exception as error:
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, usual)
