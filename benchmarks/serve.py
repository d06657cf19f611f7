"""Pages and routes of `atlas serve`, against the questions behind them asked in this process.

    python benchmarks/serve.py [ATLAS]       # by default the user's atlas

A large one: `python benchmarks/scale.py --keep large.atlas`.

A server of its own answers over the loopback interface. Then fifty readers ask at once while another process writes.
"""

from __future__ import annotations

import http.client
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from _timing import report

from atlas.api.atlas import Atlas
from atlas.errors import AtlasError
from atlas.query.question import Question
from atlas.questions.layers import Layers
from atlas.questions.neuron import Neuron
from atlas.questions.query import Query
from atlas.questions.shared import Shared
from atlas.store.default_path import default_path
from atlas.store.keeper import Keeper
from cli.web.links import data

REPEATS = 25
READERS, WRITES = 50, 5
LARGE = 10_000_000
"""Scores from which on an atlas is large."""

WRITE = """
import sys, time
from pathlib import Path
import sqlalchemy as sa
from atlas.store.engine import connect_writer
for _ in range(int(sys.argv[2])):
    with connect_writer(Path(sys.argv[1]), wait=30) as connection:
        connection.execute(sa.text("UPDATE runs SET status = status"))
    time.sleep(0.5)
"""


@contextmanager
def serving(path: Path) -> Iterator[int]:
    """A server of an atlas; its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cli.main", "serve", "-a", str(path), "--port", str(port), "--no-browser"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                fetch(port, "/v1/models")
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


def fetch(port: int, address: str) -> bytes:
    """What the server answers; anything but 200 ends the benchmark."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", address, headers={"Accept": "text/html" if address[:4] != "/v1/" else "*/*"})
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise SystemExit(f"{address}: {response.status} {content[:300].decode(errors='replace')}")
    return content


def quantiles(asks: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """The median and the 95th percentile of each, in milliseconds, asked in turns."""
    taken: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(REPEATS + 1):
        for name, ask in asks.items():
            started = time.perf_counter()
            ask()
            if number:
                taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: (statistics.median(v), statistics.quantiles(v, n=20)[-1]) for name, v in taken.items()}


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else default_path()
    try:
        atlas = Atlas.open(path)
        concept = next(row for row in atlas.concepts().to_pylist() if row["maps"])
        best = atlas.query(concept["concept"], top=1)
        scores = int(atlas.sql("SELECT count(*) AS n FROM scores").to_pylist()[0]["n"])
    except (AtlasError, StopIteration) as error:
        raise SystemExit(f"{error or 'no maps'}: run `atlas demo` first, or give an atlas") from None
    model, name, neuron = str(best.provenance["maps"][0]["model"]), concept["concept"], str(best.neurons[0])
    large = scores >= LARGE
    print(f"{path.name}: {scores:,} scores, concept {name}, neuron {neuron}, {os.cpu_count()} cores")
    with serving(path) as port:
        _routes(path, port, name, neuron, concept["sources"], large)
        _pages(port, model, name, neuron, large)
        _readers(path, port, name)


def _routes(path: Path, port: int, concept: str, neuron: str, sources: list[str], large: bool) -> None:
    """Questions over HTTP, and the same in this process."""
    asked: dict[str, Question[Any]] = {"query": Query(concept=concept, top=100), "neuron": Neuron(neuron)}
    asked["layers"] = Layers(concept=concept)
    if len(sources) > 1:
        asked["shared"] = Shared(concept, sources=tuple(sources[:2]))
    keeper = Keeper(path)
    sides: dict[str, Callable[[], object]] = {}

    def own(question: Question[Any]) -> object:
        with keeper.asking():
            return question.ask(path)

    for name, question in asked.items():
        sides[f"/v1/{name}"] = partial(fetch, port, data(question))
        sides[name] = partial(own, question)
    try:
        taken = quantiles(sides)
    finally:
        keeper.stop()
    targets = {"query": "<= 25 ms in process", "neuron": "<= 60 ms in process"} if large else {}
    for name in asked:
        (median, late), (alone, _) = taken[f"/v1/{name}"], taken[name]
        detail = f"p50 {median:.0f} ms, p95 {late:.0f} ms; the question alone {alone:.0f} ms"
        report(f"GET /v1/{name} / the question", median / alone, targets.get(name, "<= 1.3"), detail)


def _pages(port: int, model: str, concept: str, neuron: str, large: bool) -> None:
    """Whole pages, and parts that come behind them."""
    of_concept = f"/m/{quote(model)}/c/{quote(concept)}"
    pages = ["/", of_concept, f"/m/{quote(model)}/n/{neuron}", "/leaderboard", "/matrix", "/runs", "/edits"]
    pages += [f"{of_concept}?part=layers", f"{of_concept}?part=methods"]
    limit = 1000 if large else 300
    taken = quantiles({page: partial(fetch, port, page) for page in pages})
    for page, (median, late) in taken.items():
        report(f"{page}, p50 ms", median, f"<= {limit}", f"p95 {late:.0f} ms")


def _readers(path: Path, port: int, concept: str) -> None:
    """Fifty readers at once while another process writes again and again."""
    stopped, seconds, failed = threading.Event(), list[float](), list[str]()

    def read() -> None:
        while not stopped.is_set():
            started = time.perf_counter()
            try:
                fetch(port, f"/v1/query?concept={quote(concept)}&top=20")
                seconds.append(time.perf_counter() - started)
            except (SystemExit, OSError) as error:
                failed.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    started = time.perf_counter()
    writer = subprocess.run([sys.executable, "-c", WRITE, str(path), str(WRITES)], capture_output=True, text=True)
    taken = time.perf_counter() - started
    stopped.set()
    for thread in threads:
        thread.join()
    if writer.returncode:
        raise SystemExit(f"the writer failed: {writer.stderr[-500:]}")
    late = 1e3 * statistics.quantiles(seconds, n=20)[-1]
    detail = f"{len(seconds):,} answers in {taken:.1f} s, p95 {late:.0f} ms; {WRITES} writes by another process"
    report(f"errors of {READERS} readers at once while another process writes", len(failed), "0", detail)
    for message in sorted(set(failed))[:3]:
        print(f"  {message}")


if __name__ == "__main__":
    main()
