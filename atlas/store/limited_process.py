"""Work on untrusted files in a separate process with limited memory and time.

A single allocation or call of a library cannot be stopped by its settings or by a signal, only by ending the process.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

from atlas import errors
from atlas.errors import AtlasError

GIB = 1 << 30
Result: TypeAlias = tuple[dict[str, Any], pa.Table | None]
"""The result of a confined function: facts for JSON, and rows."""

_CHILD = "import sys; sys.path[:] = {path!r}; from atlas.store.limited_process import serve; serve()"
_STARTING = 60.0
"""Seconds until a child must be ready: it loads its modules, and may wait for a writer of the atlas."""


class TookTooLong(AtlasError):
    """The time was too short; the process was ended."""


class NeedsMemory(AtlasError):
    """The memory was too small; the process was ended."""


def run_confined(function: str, arguments: Mapping[str, Any], *, memory: int, seconds: float) -> Result:
    """The result of `module:function` for these arguments (JSON), computed in a separate process.

    The function also gets `ready`, which it calls to start its time limit. memory: bytes that it may allocate.

    Raises:
        TookTooLong, NeedsMemory: it ended without a result.
        AtlasError: one that the function raised.
    """
    request = json.dumps({"function": function, "arguments": dict(arguments), "memory": memory}).encode()
    command = [sys.executable, "-c", _CHILD.format(path=sys.path)]
    with tempfile.TemporaryDirectory(prefix="neuron-atlas-") as spill:  # removed here, as the child may be killed
        child = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": spill},
        )
        try:
            return _answer(child, request, seconds)
        finally:
            child.kill()
            child.communicate()


def _answer(child: subprocess.Popen[bytes], request: bytes, seconds: float) -> Result:
    import selectors

    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(request + b"\n")
    with selectors.DefaultSelector() as waiting:
        waiting.register(child.stdout, selectors.EVENT_READ)
        if not waiting.select(_STARTING):
            raise TookTooLong(f"no process could be started within {_STARTING:g} s")
    head = child.stdout.readline()
    if head == b"ready\n":
        try:
            content, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise TookTooLong(f"it took longer than {seconds:g} s") from error
        head, _, rows = content.partition(b"\n")
    else:
        rows = b""
    if not head:
        raise NeedsMemory("it needs more memory than it may have")
    facts = json.loads(head)
    if "error" in facts:
        raise _kinds().get(facts["error"], RuntimeError)(facts["message"])
    return facts, pa.ipc.open_stream(rows).read_all() if rows else None


def _kinds() -> dict[str, type[Exception]]:
    candidates = (*vars(errors).values(), NeedsMemory)
    return {kind.__name__: kind for kind in candidates if isinstance(kind, type) and issubclass(kind, AtlasError)}


def serve() -> None:
    """The child: one request from stdin, one result to stdout. The parent ends it on an interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.readline())
    if sys.platform == "linux":  # elsewhere the limit does not count mapped memory
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (request["memory"], request["memory"]))
    module, _, name = request["function"].partition(":")
    try:
        facts, rows = getattr(importlib.import_module(module), name)(**request["arguments"], ready=_ready_signal(out))
    except MemoryError:
        facts, rows = {"error": "NeedsMemory", "message": "it needs more memory than it may have"}, None
    except Exception as error:
        facts, rows = {"error": type(error).__name__, "message": str(error)}, None
    _send(out, facts, rows)
    os._exit(0)


def _ready_signal(out: BinaryIO) -> Callable[[], None]:
    return lambda: _write_all(out, b"ready\n")


def _send(out: BinaryIO, facts: Mapping[str, Any], rows: pa.Table | None) -> None:
    _write_all(out, json.dumps(facts).encode() + b"\n")
    if rows is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        _write_all(out, sink.getvalue())


def _write_all(out: BinaryIO, content: Any) -> None:
    unsent = memoryview(content)
    while unsent:
        unsent = unsent[out.write(unsent) :]
