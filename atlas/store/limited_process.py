"""Work on what others wrote, in a process of its own: it has so much memory and so much time, and no more.

What a library allocates in one piece, or does in one call, no setting of it and no signal stops; the end of the process
does.
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
Found: TypeAlias = tuple[dict[str, Any], pa.Table | None]
"""What a confined function returns: facts for JSON, and rows."""

_CHILD = "import sys; sys.path[:] = {path!r}; from atlas.store.limited_process import serve; serve()"
_STARTING = 60.0
"""Seconds until a child is ready: it loads its modules, and may wait for who writes the atlas."""


class TookTooLong(AtlasError):
    """The time was over; the process is gone."""


class NeedsMemory(AtlasError):
    """The memory was too little; the process is gone."""


def confined(function: str, arguments: Mapping[str, Any], *, memory: int, seconds: float) -> Found:
    """What `module:function` returns for these arguments (JSON), computed in a process of its own.

    The function also gets `ready`, which it calls when its time is to begin. memory: bytes that it may allocate.

    Raises:
        TookTooLong, NeedsMemory: it ended without an answer; an error of the atlas's own that it raised.
    """
    said = json.dumps({"function": function, "arguments": dict(arguments), "memory": memory}).encode()
    command = [sys.executable, "-c", _CHILD.format(path=sys.path)]
    with tempfile.TemporaryDirectory(prefix="neuron-atlas-") as spill:  # the child's, which may have no time to tidy up
        child = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": spill},
        )
        try:
            return _answer(child, said, seconds)
        finally:
            child.kill()
            child.communicate()


def _answer(child: subprocess.Popen[bytes], said: bytes, seconds: float) -> Found:
    import selectors

    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(said + b"\n")
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
    found = json.loads(head)
    if "error" in found:
        raise _kinds().get(found["error"], RuntimeError)(found["message"])
    return found, pa.ipc.open_stream(rows).read_all() if rows else None


def _kinds() -> dict[str, type[Exception]]:
    every = (*vars(errors).values(), NeedsMemory)
    return {kind.__name__: kind for kind in every if isinstance(kind, type) and issubclass(kind, AtlasError)}


def serve() -> None:
    """The child: one request from stdin, one answer to stdout. The parent ends it where it is interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.buffer.readline())
    if sys.platform == "linux":  # elsewhere it does not count what is mapped
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (asked["memory"], asked["memory"]))
    module, _, name = asked["function"].partition(":")
    try:
        facts, rows = getattr(importlib.import_module(module), name)(**asked["arguments"], ready=_readiness(out))
    except MemoryError:
        facts, rows = {"error": "NeedsMemory", "message": "it needs more memory than it may have"}, None
    except Exception as error:
        facts, rows = {"error": type(error).__name__, "message": str(error)}, None
    _send(out, facts, rows)
    os._exit(0)


def _readiness(out: BinaryIO) -> Callable[[], None]:
    return lambda: _whole(out, b"ready\n")


def _send(out: BinaryIO, facts: Mapping[str, Any], rows: pa.Table | None) -> None:
    _whole(out, json.dumps(facts).encode() + b"\n")
    if rows is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        _whole(out, sink.getvalue())


def _whole(out: BinaryIO, content: Any) -> None:
    left = memoryview(content)
    while left:
        left = left[out.write(left) :]
