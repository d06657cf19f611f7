from __future__ import annotations

import signal
import threading

import pytest

from atlas.store.interrupts import interruptible


def test_an_error_that_an_interrupt_became_is_an_interrupt_again() -> None:
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught, interruptible():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("what the library made of it") from None
    assert isinstance(caught.value.__cause__, ValueError)
    assert signal.getsignal(signal.SIGINT) is usual


def test_other_errors_pass_unchanged_and_so_does_the_interrupt_itself() -> None:
    with pytest.raises(ValueError, match="mine"), interruptible():
        raise ValueError("mine")
    with pytest.raises(KeyboardInterrupt) as caught, interruptible():
        signal.raise_signal(signal.SIGINT)
    assert caught.value.__cause__ is None


def test_in_another_thread_it_does_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
