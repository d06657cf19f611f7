"""Labels from stored maps: MINER's and LAPE's published rules written out plainly, and what a run of labels is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas.errors import UsageError
from atlas.maintain import rebuild
from atlas.maintain.check import check
from atlas.query import labels as stored_labels
from atlas.store import create
from atlas.store.database import open_readonly
from ingest.analyse.labelling import LabelRun, find_runs, make, stored
from ingest.attribution.miner_weights import METRICS, PRESETS, SPLITS
from ingest.job import Execution, make_job
from ingest.label_rules.lape import specific
from ingest.label_rules.miner import build, pooled
from ingest.run.ingest import ingest

L, N = 2, 64
RATIOS = (0.001, 0.005, 0.01, 0.015, 0.02, 0.05, 0.1)


@pytest.fixture(scope="module")
def labelling(tmp_path_factory: pytest.TempPathFactory, llava_folder: Path) -> tuple[Path, list[str]]:
    """An atlas with a run on questions with pictures and one on questions without."""
    path = tmp_path_factory.mktemp("labels") / "labels.atlas"
    create.init(path)
    methods = {"miner": {"attention": True}, "lape": {}, "modality_profile": {"threshold": 0.6}}
    job = {"model": str(llava_folder), "methods": methods, "concepts": ("cat", "dog"), "per_concept": 3, "tap": "gate"}
    runs = [ingest(path, make_job({**job, "sources": (s,)}), Execution()).run_id for s in ("image", "text")]
    return path, runs


def isms(path: Path, runs: list[str]) -> list[dict[str, np.ndarray]]:
    """For each dataset: role -> (metrics, L, N), as stored."""
    with open_readonly(path) as connection:
        maps = [stored(connection, run, "miner") for run in runs]
        return [
            {role: np.stack([m.scores(f"miner.{x}", role) for x in METRICS]) for role in m.sources("miner.prob")}
            for m in maps
        ]


def published_importance(datasets: list[dict[str, np.ndarray]], weights: tuple[float, ...], split: str) -> Any:
    """Sum over datasets, each modality divided by how often it occurs; modalities that never occur are dropped."""
    found = {}
    for role in SPLITS[split]:
        occurring = [d[role] for d in datasets if role in d and d[role].sum() != 0]
        if occurring:
            ism = np.sum(occurring, axis=0) / len(occurring)
            found[role] = sum(w * ism[m] for m, w in enumerate(weights))
    return found


def published_selection(scores: dict[str, np.ndarray], ratio: float, strategy: str) -> set[tuple[str, int, int]]:
    """Neuron by neuron, in lists: the layers L and modalities M share K = int(ratio * L * N)."""
    k = int(ratio * L * N)
    cells = [(layer, n) for layer in range(L) for n in range(N)]
    chosen = set()
    if strategy == "adaptive":
        for layer, n in sorted(cells, key=lambda c: -sum(s[c] for s in scores.values()))[:k]:
            chosen.add((max(scores, key=lambda m: scores[m][layer, n]), layer, n))
    elif strategy == "LA_MU":
        for m, s in scores.items():
            chosen |= {(m, *c) for c in sorted(cells, key=lambda c: -s[c])[: k // len(scores)]}
    elif strategy == "LU_MA":
        for layer in range(L):
            pairs = sorted(((m, layer, n) for m in scores for n in range(N)), key=lambda p: -scores[p[0]][p[1:]])
            chosen |= set(pairs[: k // L])
    elif strategy == "uniform":
        for m, s in scores.items():
            for layer in range(L):
                best = sorted(range(N), key=lambda n: -s[layer, n])[: k // (len(scores) * L)]
                chosen |= {(m, layer, n) for n in best}
    return chosen


def rows_of(path: Path, done: LabelRun) -> dict[tuple[str, int, int], float]:
    rows = stored_labels.labelled(path, done.run_id).to_arrow().to_pylist()
    return {(r["label"], r["layer"], r["neuron"]): r["score"] for r in rows}


@pytest.mark.parametrize("strategy", ["adaptive", "LA_MU", "LU_MA", "uniform"])
@pytest.mark.parametrize("split", list(SPLITS))
def test_miner_labels_are_the_published_selection(strategy: str, split: str, labelling: tuple[Path, list[str]]) -> None:
    """Every ratio and two mixes of the metrics, pooled over a dataset with pictures and one without."""
    path, runs = labelling
    datasets = isms(path, runs)
    assert "image" in datasets[0] and "image" not in datasets[1]
    with open_readonly(path) as connection:
        maps = [stored(connection, run, "miner") for run in sorted(runs)]
        for weights in ("published", "uniform"):
            scores = published_importance(datasets, PRESETS[weights], split)
            for ratio in RATIOS:
                wanted = published_selection(scores, ratio, strategy)
                rule = build(strategy=strategy, split=split, weights=weights, ratio=ratio)
                if not wanted:
                    with pytest.raises(UsageError, match="leaves no neuron"):
                        list(rule.label(maps))
                    continue
                found = {
                    (some.label, int(layer), int(n)): float(score)
                    for some in rule.label(maps)
                    for layer, n, score in zip(some.layers, some.neurons, some.scores, strict=True)
                }
                assert found.keys() == wanted
                for (role, layer, neuron), score in found.items():
                    assert score == pytest.approx(scores[role][layer, neuron], abs=1e-6)


def test_the_default_is_the_published_one(labelling: tuple[Path, list[str]]) -> None:
    path, runs = labelling
    done = make(path, "miner", runs, {"ratio": 0.1})
    rules = {row["rule"] for row in stored_labels.listing(path).to_pylist() if done.run_id.startswith(row["run"])}
    assert rules == {"miner LA_MU 0.1 special_text_separate 0,0.25,0.25,0.5,0"}


def test_the_random_strategy_is_seeded_and_of_no_modality(labelling: tuple[Path, list[str]]) -> None:
    path, runs = labelling
    zero, one = (
        rows_of(path, make(path, "miner", runs, {"strategy": "random", "ratio": 0.1, "seed": s})) for s in (0, 1)
    )
    assert {label for label, _, _ in zero} == {"random"} and 0 < len(zero) <= 12
    assert zero.keys() != one.keys()


def published_lape(rates: np.ndarray) -> list[set[tuple[int, int]]]:
    """Neuron by neuron. rates: (D, L, N). Domain -> its neurons."""
    flat = sorted(rates.reshape(-1).tolist())
    bar = flat[round(0.95 * len(flat)) - 1]  # the k-th smallest, from 1
    entropies = []
    for layer in range(rates.shape[1]):
        for n in range(rates.shape[2]):
            p = rates[:, layer, n]
            if max(p) <= bar:
                entropies.append((math.inf, layer, n))
                continue
            q = [x / sum(p) for x in p]
            entropies.append((-sum(x * math.log(x) for x in q if x > 0), layer, n))
    chosen = sorted(entropies)[: round(0.01 * len(entropies))]
    return [{(layer, n) for _, layer, n in chosen if p[layer, n] > bar} for p in rates]


def test_lape_is_the_published_rule() -> None:
    rates = np.random.default_rng(0).beta(0.3, 2.0, size=(4, 6, 100))
    where, gap = specific(rates, 0.01, 0.95)
    wanted = published_lape(rates)
    assert sum(map(len, wanted)) >= 6
    for mine, theirs in zip(where, wanted, strict=True):
        assert {(int(a), int(b)) for a, b in zip(*np.nonzero(mine), strict=True)} == theirs
    assert float(gap.min()) >= 0 and float(gap.max()) <= math.log(4) + 1e-9


def test_a_neuron_that_fires_in_one_domain_alone_is_its_own(labelling: tuple[Path, list[str]]) -> None:
    path, runs = labelling
    done = make(path, "lape", runs[:1], {"domains": "roles", "share": 0.1})
    found = rows_of(path, done)
    assert found and {label for label, _, _ in found} <= {"text", "special", "image"}
    across = make(path, "lape", runs, {"share": 0.5, "quantile": 0.5})
    names = {f"scenes:{run[:8]}" for run in runs}
    assert {label for label, _, _ in rows_of(path, across)} == names
    with pytest.raises(UsageError, match="there is one domain"):
        make(path, "lape", runs[:1])
    with pytest.raises(UsageError, match="the roles of one run"):
        make(path, "lape", runs, {"domains": "roles"})


def test_a_run_of_labels_is_a_run(labelling: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, runs = labelling
    done = make(path, "miner", [runs[0][:10]], {"ratio": 0.1})
    assert done.fresh and done.runs == (runs[0],)
    assert not make(path, "miner", [runs[0]], {"ratio": 0.1}).fresh
    manifest = (path / "runs" / done.run_id / "manifest.json").read_text()
    assert runs[0] in manifest and '"kind": "labels"' in manifest
    assert check(path) == []
    before = stored_labels.listing(path)
    rebuild.rebuild(path)
    assert stored_labels.listing(path).equals(before)
    assert check(path) == []


def test_labels_by_layer_and_those_of_two_modalities(labelling: tuple[Path, list[str]]) -> None:
    path, runs = labelling
    done = make(path, "miner", runs, {"ratio": 0.8})
    rows = rows_of(path, done)
    counts, overlaps, run = stored_labels.layers(path, done.run_id[:10])
    assert run == done.run_id
    for row in counts.to_pylist():
        mine = {n for label, layer, n in rows if (label, layer) == (row["label"], row["layer"])}
        others = {n for label, layer, n in rows if layer == row["layer"] and label != row["label"]}
        assert row["neurons"] == len(mine) and row["also_other"] == len(mine & others)
    for row in overlaps.to_pylist():
        first, second = ({(a, b) for label, a, b in rows if label == row[key]} for key in ("first", "second"))
        assert row["neurons"] == len(first & second)
    assert overlaps.num_rows == 1 + (len({label for label, _, _ in rows}) == 3) * 2
    assert check(path) == [], "two labels of one neuron are not a fault"


def test_profile_labels_come_with_the_run(labelling: tuple[Path, list[str]]) -> None:
    path, runs = labelling
    neurons = stored_labels.labelled(path, runs[0], "visual", top=5)
    assert 0 < len(neurons) <= 5
    scores = neurons.to_arrow()["score"].to_pylist()
    assert scores == sorted(scores, reverse=True) and min(scores) >= 0.6


def test_wrong_names_say_what_there_is(labelling: tuple[Path, list[str]], empty_atlas: Path) -> None:
    path, runs = labelling
    for call, message in (
        (lambda: make(path, "miner", ["zz"]), "no run with miner maps begins with 'zz'"),
        (lambda: make(path, "miner", [""]), "several runs begin with ''"),
        (lambda: make(path, "minor"), "no label rule called 'minor'; did you mean 'miner'"),
        (lambda: make(path, "miner", runs, {"split": "x"}), "no split called 'x'"),
        (lambda: make(path, "miner", runs, {"strategy": "la_mu"}), "strategy called 'la_mu'; there are: LA_MU"),
        (lambda: make(path, "lape", runs, {"weights": "mean"}), "no parameter of lape called 'weights'"),
        (lambda: make(path, "lape", runs, {"role": "video"}), "has no lape.role map of video tokens"),
        (lambda: make(empty_atlas, "miner"), "the atlas has no miner maps; `atlas ingest --methods miner`"),
        (lambda: stored_labels.labelled(path, "zz"), "no run with labels called 'zz'"),
        (lambda: stored_labels.labelled(path, runs[0], "visula"), "did you mean 'visual'"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_runs_that_do_not_go_together_are_refused(
    labelling: tuple[Path, list[str]], tmp_path: Path, llava_folder: Path
) -> None:
    import shutil

    path, runs = labelling
    own = Path(shutil.copytree(path, tmp_path / "own.atlas"))
    job = {"model": str(llava_folder), "concepts": ("cat",), "per_concept": 1, "sources": ("text",)}
    for changed, message in (
        ({"methods": {"miner": {}}}, "have different taps"),
        ({"methods": {"miner": {}}, "tap": "gate", "layers": "1"}, "have different layers"),
        ({"methods": {"miner": {"normalise": "none"}}, "tap": "gate"}, "normalise their scores differently"),
    ):
        other = ingest(own, make_job({**job, **changed}), Execution()).run_id
        with pytest.raises(UsageError, match=message):
            make(own, "miner", [runs[0], other])
    plain = ingest(own, make_job({**job, "methods": {"miner": {}}, "tap": "gate"}), Execution()).run_id
    with pytest.raises(UsageError, match="need attention"):
        make(own, "miner", [runs[0], plain], {"weights": "published"})
    done = make(own, "miner", [runs[0], plain], {"ratio": 0.1})  # what all of them have
    rules = {r["rule"] for r in stored_labels.listing(own).to_pylist() if done.run_id.startswith(r["run"])}
    assert rules == {"miner LA_MU 0.1 special_text_separate 0,0.5,0.5,0,0"}
    with open_readonly(own) as connection:
        assert find_runs(connection, [], "miner") == [plain], "the newest, where none is named"


def test_several_runs_of_one_dataset_count_as_one() -> None:
    class Run:
        def __init__(self, dataset: str, value: float):
            self.dataset, self.value = dataset, value

        def has(self, method: str, role: str) -> bool:
            return True

        def scores(self, method: str, role: str) -> np.ndarray:
            return np.full((2, 3), self.value)

    runs: Any = [Run("a", 1.0), Run("a", 3.0), Run("b", 6.0)]
    assert np.allclose(pooled(runs, "text", ["miner.mean"], [0.5]), 0.5 * (2 + 6) / 2)
