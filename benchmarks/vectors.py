"""Search of 352,256 x 384 vectors (a LLaVA-1.5-7B's neurons as MiniLM embeds them) through the project's own path,
against plain numpy in the same process: exact, half precision and inverted lists; warm, and the first question."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from _timing import interleaved, report

from atlas.store import create, engine, ledger
from atlas.store.database import open_readonly
from atlas.store.run_loader import load_run
from atlas.store.run_writer import write_run
from atlas.vectors import faiss_files, nearest
from ingest.embed.embed import vector_batches

LAYERS, WIDTH, DIMENSION, CLUSTERS = 32, 11_008, 384, 2_000
TOP, QUESTIONS = 20, 20
RUN = "0" * 31 + "1"


def clustered(seed: int = 0) -> np.ndarray:
    """(neurons, dimension) float32 unit vectors around centres, as texts of few topics lie."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((CLUSTERS, DIMENSION), np.float32)
    found = centres[generator.integers(CLUSTERS, size=LAYERS * WIDTH)]
    found += 0.7 * generator.standard_normal(found.shape, np.float32)
    unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def stored(path: Path, found: np.ndarray) -> None:
    """An atlas with these vectors, as `atlas index build` stores them."""
    now = ledger.now()
    times = {"started_at": now, "finished_at": now}
    outcome = {"rows": len(found), "dimension": DIMENSION}
    run = {"run_id": RUN, "kind": "embed", "job": {"space": "decoded"}, "environment": {}, "outcome": outcome, **times}
    model = {"name": "large", "revision": None, "fingerprint": "f" * 64, "model_type": "llava", "layers": LAYERS}
    model |= {"width": WIDTH, "d_model": 4096, "vocabulary": 32_000, "created_at": now}
    head = {"run": run, "model": model, "dataset": None, "concepts": []}
    create.init(path)
    layers = (found[start : start + WIDTH] for start in range(0, len(found), WIDTH))
    write_run(path / "runs" / RUN, head, {"vectors": vector_batches(RUN, layers)})
    with engine.connect_writer(path) as connection:
        load_run(connection, path / "runs" / RUN)


def plain(found: np.ndarray, question: np.ndarray) -> np.ndarray:
    """The rows of the best, by numpy."""
    products = found @ question
    best = np.argpartition(-products, TOP)[:TOP]
    return best[np.argsort(-products[best])]


def rows(path: Path, question: np.ndarray) -> list[int]:
    hits = nearest.nearest(path, RUN, question, TOP)
    return [layer * WIDTH + n for layer, n in zip(hits["layer"].to_pylist(), hits["neuron"].to_pylist(), strict=True)]


def taken(side: Callable[[], object]) -> float:
    started = time.perf_counter()
    side()
    return time.perf_counter() - started


def asked(side: Callable[[np.ndarray], object], questions: np.ndarray) -> Callable[[], object]:
    """A side that takes the next question at every call."""
    turn = itertools.cycle(questions)
    return lambda: side(next(turn))


def database_alone(path: Path, question: np.ndarray) -> None:
    with open_readonly(path) as connection:
        nearest.exact(connection, RUN, question, TOP)


def main() -> None:
    found = clustered()
    generator = np.random.default_rng(1)
    questions = found[generator.integers(len(found), size=QUESTIONS)]
    questions = questions + 0.3 * generator.standard_normal(questions.shape, np.float32) / DIMENSION**0.5
    questions = (questions / np.linalg.norm(questions, axis=1, keepdims=True)).astype(np.float32)
    right = [plain(found, q) for q in questions]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.atlas"
        print(f"stored in {taken(lambda: stored(path, found)):.1f} s; no index")
        print(f"exact search in DuckDB, opened anew: {1e3 * taken(lambda: database_alone(path, questions[0])):.0f} ms")
        for kind in faiss_files.KINDS:
            built = taken(partial(faiss_files.build_index, path, RUN, kind))
            nearest.forget_loaded()
            cold = taken(lambda: rows(path, questions[0]))
            recall = np.mean(
                [len({*rows(path, q)} & {*r.tolist()}) / TOP for q, r in zip(questions, right, strict=True)]
            )
            size = faiss_files.index_file(path, RUN).stat().st_size / 2**20
            ask, compute = asked(lambda q: rows(path, q), questions), asked(lambda q: plain(found, q), questions)
            seconds = interleaved({"ours": ask, "numpy": compute}, 15)
            detail = f"built in {built:.1f} s, {size:.0f} MiB, recall@{TOP} {recall:.4f}, first question {cold:.2f} s"
            exact = kind == faiss_files.FLAT
            report(f"{kind}, ms a question", 1e3 * seconds["ours"], "<= 25" if exact else "no target", detail)
            target = "<= 1" if exact else "no target"
            report(
                f"{kind} / numpy", seconds["ours"] / seconds["numpy"], target, f"{1e3 * seconds['numpy']:.1f} ms numpy"
            )


if __name__ == "__main__":
    main()
