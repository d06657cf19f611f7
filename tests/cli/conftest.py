"""One command line, run in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cli.main import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Arguments -> exit code, stdout, stderr."""
    monkeypatch.delenv("NEURON_ATLAS", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call
