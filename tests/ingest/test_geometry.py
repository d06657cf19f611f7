"""Geometry and flow by layer against plain loops, and what a run of them stores."""

from __future__ import annotations

import importlib.util
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from atlas import Atlas
from atlas.edits import kinds
from atlas.edits.edit import Intervention
from atlas.edits.kinds import make_changes
from atlas.errors import Unsupported, UsageError
from atlas.live.affine import affine
from atlas.live.encode import ROLES
from atlas.live.hooks import editing, tracing
from atlas.live.model import LiveModel
from atlas.maintain.check import check
from atlas.neurons import Neuron
from atlas.stats.intervals import of_values
from atlas.store import create
from atlas.store.database import open_readonly
from ingest.analyse.attention_flow import NAMES, AttentionFlow
from ingest.analyse.geometry import AblatedNeurons, GeometryRun, GeometrySettings, measure, stored_measures
from ingest.analyse.geometry_rows import held_out, place_rows
from ingest.analyse.lens import Lens
from ingest.analyse.representation_metrics import cosine_distance, linear_cka, mixing, pca, probe, tsne
from ingest.analyse.representations import Representations
from ingest.attribution.item import Item
from ingest.attribution.trace import traced
from ingest.data.targets import Target
from ingest.job import Execution, Job, make_job
from ingest.requests.geometry import Geometry
from ingest.run import prepare

TEXTS = ["<s>what is this ?", "describe the picture", "<s>is this a dog or a red cat ?", "two dogs and one hot dog"]


def items_of(live: LiveModel, picture: Any) -> list[Item]:
    turned = [[picture.rotate(90 * i)] if live.encoder.role_of.media_ids else [] for i in range(len(TEXTS))]
    prompts = [live.encoder.prompt(text, shown, "a dog") for text, shown in zip(TEXTS, turned, strict=True)]
    return [Item(i, prompt, (Target("dog", 1, 1.0),)) for i, prompt in enumerate(prompts)]


def gathered(live: LiveModel, batches: list[list[Item]], size: int) -> tuple[Representations, AttentionFlow]:
    places, flow = Representations([0, 1, 2], size, seed=7), AttentionFlow([0, 1])
    for items in batches:
        asked = {"layers": None, "tap": "product", "grad": True, "attention": True}
        with traced(live, items, "image", **asked) as trace:  # type: ignore[arg-type]
            places.update(trace)
            flow.update(trace)
    return places, flow


def by_hand(live: LiveModel, item: Item) -> tuple[list[str], np.ndarray]:
    """The roles of a prompt's positions, and (3, T, d) the hidden states that the model itself reports."""
    batch = live.batch([item.prompt])
    with torch.no_grad(), tracing(live.layout) as capture:
        live.forward(batch)
    states = [capture.calls[0][0][0], capture.calls[1][0][0], capture.norm_in]
    length = batch.starts[0]
    roles = [ROLES[int(r)] for r in batch.roles[0, :length]]
    return roles, np.stack([s[0, :length].numpy() for s in states if s is not None])


@pytest.fixture(params=["llava", "opt"])
def live(request: pytest.FixtureRequest) -> LiveModel:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_sums_tokens_and_means_are_of_the_prompts_positions(live: LiveModel, picture: Any) -> None:
    items = items_of(live, picture)
    places, _ = gathered(live, [items], 1000)
    seen = [by_hand(live, item) for item in items]
    for role in ("text", "special", "image") if live.encoder.role_of.media_ids else ("text", "special"):
        mine = np.concatenate([states[:, [r == role for r in roles]] for roles, states in seen], 1)
        assert places.counts[role] == mine.shape[1] == len(places.tokens[role])
        assert np.allclose(places.sums[role], mine.sum(1), atol=1e-3)
        for (number, position), vectors in places.tokens[role].items():
            assert seen[number][0][position] == role
            assert np.allclose(vectors, seen[number][1][:, position], atol=1e-4)
        for number, means in places.means.items():
            roles, states = seen[number]
            if role in roles:
                assert np.allclose(means[role], states[:, [r == role for r in roles]].mean(1), atol=1e-4)
    assert places.examples == 4


def test_the_sample_is_bounded_seeded_and_blind_to_batches(llava: LiveModel, picture: Any) -> None:
    items = items_of(llava, picture)
    whole, _ = gathered(llava, [items], 5)
    parts, _ = gathered(llava, [items[2:], items[:2]], 5)
    everything, _ = gathered(llava, [items], 1000)
    for role in ("text", "image"):
        assert len(whole.tokens[role]) == 5 < len(everything.tokens[role])
        assert whole.tokens[role].keys() == parts.tokens[role].keys()
        for place, vectors in whole.tokens[role].items():
            assert np.allclose(vectors, parts.tokens[role][place], atol=1e-5)
            assert vectors.base is None, "a view would keep the batch"
    twice, _ = gathered(llava, [items, items], 5)
    assert twice.tokens["text"].keys() == whole.tokens["text"].keys()
    few = Representations([0], 2, seed=0)
    with traced(llava, items, "image", layers=None, tap="product", grad=False) as trace:
        few.update(trace)
    assert len(few.means) == 2


def test_the_rows_are_what_the_functions_say(llava: LiveModel, picture: Any) -> None:
    items = items_of(llava, picture)
    places, _ = gathered(llava, [items], 1000)
    rows = {(r["name"], r["layer"], r["first"], r["second"]): r for r in place_rows(places, 3, 7, Lens(llava))}
    seen = [by_hand(llava, item) for item in items]
    assert rows["lens_uniform", 0, "text", None]["value"] == pytest.approx(math.log(llava.layout.vocabulary))
    for depth in range(3):
        states = {
            role: np.concatenate([s[depth][[r == role for r in roles]] for roles, s in seen]) for role in ROLES[1:4]
        }
        a, b = states["text"].mean(0), states["image"].mean(0)
        wanted = 1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        row = rows["centroid_distance", depth, "text", "image"]
        assert row["value"] == pytest.approx(wanted, abs=1e-5) and row["examples"] == 4
        read = llava.model.lm_head(llava.layout.norm(torch.from_numpy(states["image"]).float())).softmax(-1).double()
        row = rows["lens_entropy", depth, "image", None]
        assert row["value"] == pytest.approx(float(-(read * read.log()).sum(-1).mean()), abs=1e-4)
        assert 0 < row["low"] <= row["value"] <= row["high"] < rows["lens_uniform", depth, "image", None]["value"]
        far = [1 - float(v @ a) / math.sqrt(float(v @ v) * float(a @ a)) for v in states["image"]]
        row = rows["semantic_probing", depth, "image", "text"]
        assert row["value"] == pytest.approx(np.mean(far), abs=1e-5) and row["low"] < row["value"] < row["high"]
        assert {("semantic_telomere", depth, "special", "text"), ("text_spread", depth, "text", "text")} <= rows.keys()
        paired = [
            (s[depth][[r == "text" for r in roles]].mean(0), s[depth][[r == "image" for r in roles]].mean(0))
            for roles, s in seen
        ]
        x, y = (np.stack(side) - np.stack(side).mean(0) for side in zip(*paired, strict=True))
        cka = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
        assert rows["linear_cka", depth, "text", "image"]["value"] == pytest.approx(cka, abs=1e-4)
        tokens = [(role, v) for role in ROLES[1:4] for v in states[role]]
        shares = []
        for i, (role, v) in enumerate(tokens):
            if role != "image":
                continue
            near = sorted((cosine_distance(v, w), other) for j, (other, w) in enumerate(tokens) if j != i)[:3]
            shares.append(sum(other != "image" for _, other in near) / 3)
        assert rows["knn_mixing", depth, "image", None]["value"] == pytest.approx(np.mean(shares), abs=0.02)
        assert {"probe_accuracy", "probe_chance"} <= {name for name, layer, _, _ in rows if layer == depth}


def test_cka_is_one_for_the_same_and_blind_to_rotation_and_scale() -> None:
    generator = np.random.default_rng(0)
    x, other = generator.normal(size=(2, 40, 6))
    rotation = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1.0)
    assert linear_cka(x, other) < 0.4
    assert math.isnan(linear_cka(x, np.ones((40, 3)) + 1e-8 * generator.normal(size=(40, 3))))


def test_neighbours_mix_only_where_the_roles_do() -> None:
    generator = np.random.default_rng(1)
    roles = np.array(["image"] * 30 + ["text"] * 60)
    apart = generator.normal(size=(90, 8)) * 0.05
    apart[:30, 0] += 1
    apart[30:, 1] += 1
    assert mixing(apart, roles, 5) == {"image": (0.0, pytest.approx(60 / 89)), "text": (0.0, pytest.approx(30 / 89))}
    together = mixing(generator.normal(size=(90, 8)), roles, 20)
    assert all(abs(share - chance) < 0.08 for share, chance in together.values())


def test_the_probe_is_judged_on_examples_it_never_saw(llava: LiveModel, picture: Any) -> None:
    generator = np.random.default_rng(2)
    roles = np.array(["image", "text"] * 100)
    vectors = generator.normal(size=(200, 10))
    apart = np.arange(200) >= 140
    found = probe(vectors, roles, apart)
    assert found is not None and found[1] == 30 and len(found[0]) == 60
    assert 15 < found[0].sum() < 45, "noise is at chance"
    told = vectors + 12 * (roles == "text")[:, None] * np.eye(10)[0]
    sure = probe(told, roles, apart)
    assert sure is not None and sure[0].all() and sure[1] == 30
    assert probe(vectors, np.array(["text"] * 200), apart) is None
    places, _ = gathered(llava, [items_of(llava, picture)], 1000)
    kept = held_out(places, ["text", "image"], 7)
    numbers = [n for role in ("text", "image") for n, _ in places.tokens[role]]
    by_example = {n: {bool(k) for m, k in zip(numbers, kept, strict=True) if m == n} for n in set(numbers)}
    assert all(len(sides) == 1 for sides in by_example.values()), "no example is on both sides"
    assert sum(True in sides for sides in by_example.values()) == round(0.3 * 4)


def test_planes() -> None:
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(60, 5)) * [9, 4, 1, 0.5, 0.1]
    flat = pca(vectors)
    covariance = np.cov(flat.T)
    axes = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert np.allclose(np.diag(covariance), axes[:2]) and abs(covariance[0, 1]) < 1e-8
    assert np.allclose(pca(-vectors), -flat) and np.allclose(pca(vectors[:, ::-1]), flat)
    assert pca(np.ones((4, 3))).shape == (4, 2)
    assert np.allclose(pca(vectors + 1.5, like=vectors), flat + pca(vectors[:1] * 0 + 1.5 + vectors.mean(0), vectors))
    clusters = np.concatenate([vectors, vectors + 100])
    drawn = tsne(clusters, seed=0)
    assert np.array_equal(drawn, tsne(clusters, seed=0)) and np.isfinite(drawn).all()
    gap = np.linalg.norm(drawn[:60].mean(0) - drawn[60:].mean(0))
    assert gap > 2 * drawn[:60].std(0).max()


def test_a_plane_of_umap_is_the_same_again_and_keeps_clusters_apart() -> None:
    pytest.importorskip("umap")
    from ingest.analyse.representation_metrics import umap

    clusters = np.concatenate([np.random.default_rng(n).normal(10 * n, 0.1, (12, 5)) for n in range(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its parts
        drawn = umap(clusters, seed=0)
        assert np.array_equal(drawn, umap(clusters, seed=0))
    first, second = drawn[:12], drawn[12:]
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > 2 * max(first.std(), second.std())


def test_flow_into_the_last_position_equals_plain_loops(live: LiveModel, picture: Any) -> None:
    items = items_of(live, picture)
    _, flow = gathered(live, [items[:3], items[3:]], 10)
    totals: dict[str, list[np.ndarray]] = {}
    for item in items:
        batch = live.batch([item.prompt])
        live.model.set_attn_implementation("eager")
        with torch.no_grad(), tracing(live.layout, attention=True) as capture:
            attentions = live.model(**batch.inputs, use_cache=False, output_attentions=True).attentions
        live.model.set_attn_implementation("sdpa")
        last = batch.starts[0] - 1
        of_item = {ROLES[int(r)]: np.zeros(2) for r in batch.roles[0, : last + 1]}
        for layer in range(2):
            module = live.layout.attentions[layer]
            args, kwargs = capture.attention_calls[layer]
            with torch.no_grad():
                values = module.v_proj(args[0] if args else kwargs["hidden_states"])[0].view(-1, 2, 16)
            for position in range(last + 1):
                for head in range(2):
                    weight = float(attentions[layer][0, head, last, position] * values[position, head].norm())
                    of_item[ROLES[int(batch.roles[0, position])]][layer] += weight
        for role, found in of_item.items():
            totals.setdefault(role, []).append(np.stack([found, found / sum(of_item.values())]))
    means = flow.means()
    assert means.keys() == totals.keys()
    for role, found in totals.items():
        wanted = np.stack(found)
        for name, layer in np.ndindex(2, len(flow.layers)):
            mean, count, interval = means[role][name][layer]
            assert count == len(found) and mean == pytest.approx(wanted[:, name, layer].mean(), abs=1e-4)
            most = 1.0 if NAMES[name].endswith("share") else math.inf
            expected = of_values(wanted[:, name, layer], (0.0, most))
            if expected.low is None or expected.high is None:
                assert interval.low is None
            else:
                assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-3)
    place = NAMES.index("saliency_share")
    shares = np.sum([[mean * count for mean, count, _ in found[place]] for found in means.values()], axis=0)
    assert np.allclose(shares, 4.0, atol=1e-4), "each example's shares sum to one"


# Runs


@pytest.fixture(scope="module")
def job(llava_folder: Path) -> Job:
    return make_job({"model": str(llava_folder), "concepts": ("cat", "dog"), "per_concept": 2})


SETTINGS = GeometrySettings(sample=40, neighbours=5, points=10)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, job: Job) -> tuple[Path, GeometryRun, GeometryRun]:
    """An atlas with a run as the model is, and one without some neurons."""
    path = tmp_path_factory.mktemp("geometry") / "geometry.atlas"
    create.init(path)
    plain = measure(path, job, Execution(), SETTINGS)
    live = prepare.load_model(job, Execution())
    changes = make_changes([Neuron("language", layer, i) for layer in (0, 1) for i in range(20)], kinds.ablate())
    ablated = AblatedNeurons("some", Intervention(changes), live.fingerprint)
    return path, plain, measure(path, job, Execution(), SETTINGS, ablated)


def test_a_run_stores_its_measures_and_points(measured: tuple[Path, GeometryRun, GeometryRun], job: Job) -> None:
    path, plain, _ = measured
    assert plain.fresh and check(path) == []
    again = measure(path, job, Execution(batch_size=3), SETTINGS)
    assert not again.fresh and again.run_id == plain.run_id
    assert stored_measures(path, plain.run_id).num_rows == plain.rows.num_rows
    kinds = {(r["name"], r["source"]) for r in plain.rows.to_pylist()}
    assert ("centroid_distance", "image") in kinds and ("saliency_share", "text") in kinds
    with open_readonly(path) as connection:
        query = "SELECT projection, layer, role, count(*) FROM points WHERE run_id = $run GROUP BY ALL"
        found = connection.execute(query, {"run": plain.run_id}).fetchall()
    assert {(p, layer) for p, layer, _, _ in found} == {(p, layer) for p in ("pca", "tsne") for layer in range(3)}
    assert all(count <= 20 for *_, count in found)  # ten of each role, from two sources


def test_the_same_tokens_are_laid_out_with_the_edit(measured: tuple[Path, GeometryRun, GeometryRun]) -> None:
    path, plain, ablated = measured
    with open_readonly(path) as connection:
        query = "SELECT * FROM points WHERE projection = 'pca' AND run_id = $run"
        rows = connection.sql(query, params={"run": ablated.run_id}).to_arrow_table().to_pylist()
        alone = connection.sql(query, params={"run": plain.run_id}).to_arrow_table().to_pylist()
    places: dict[str, dict[tuple[Any, ...], tuple[float, float]]] = {"before": {}, "edit": {}}
    for row in rows:
        places[row["condition"]][row["layer"], row["example_id"], row["position"]] = (row["x"], row["y"])
    before, edit = places["before"], places["edit"]
    assert before.keys() == edit.keys() and len(before) == len(alone) > 0
    for row in alone:
        place = before[row["layer"], row["example_id"], row["position"]]
        assert row["condition"] == "before" and place == pytest.approx((row["x"], row["y"]), abs=1e-6)
    moved = {layer: max(abs(edit[k][0] - before[k][0]) for k in before if k[0] == layer) for layer in range(3)}
    assert moved[0] == pytest.approx(0, abs=1e-5) and moved[1] > 1e-3, "nothing is ablated before the first layer"
    both = Atlas(path).points(run=ablated.run_id, projection="pca").table
    assert sorted(set(both["condition"].to_pylist())) == ["before", "edit"]


def test_batches_change_no_number(measured: tuple[Path, GeometryRun, GeometryRun], job: Job, tmp_path: Path) -> None:
    create.init(tmp_path / "other.atlas")
    settings = replace(SETTINGS, projections=())
    one = measure(tmp_path / "other.atlas", job, Execution(batch_size=3), settings).rows.to_pylist()
    for mine, theirs in zip(one, measured[1].rows.to_pylist(), strict=True):
        assert (mine["name"], mine["layer"], mine["examples"]) == (theirs["name"], theirs["layer"], theirs["examples"])
        if not mine["name"].startswith(("probe", "knn")):  # a rounding may tip a token
            assert mine["value"] == pytest.approx(theirs["value"], abs=1e-4)


def by_key(rows: pa.Table, condition: str) -> dict[tuple[Any, ...], float]:
    names = ("name", "source", "layer", "first", "second")
    return {tuple(r[n] for n in names): r["value"] for r in rows.to_pylist() if r["condition"] == condition}


def test_without_some_neurons_the_numbers_are_those_of_the_edited_model(
    measured: tuple[Path, GeometryRun, GeometryRun], job: Job, picture: Any, llava: LiveModel
) -> None:
    _, plain, ablated = measured
    assert by_key(ablated.rows, "before") == by_key(plain.rows, "before")
    edit, random = by_key(ablated.rows, "edit"), by_key(ablated.rows, "random")
    assert edit.keys() == random.keys() == by_key(plain.rows, "before").keys()
    for key, value in by_key(plain.rows, "before").items():
        if key[0] == "centroid_distance" and key[2] == 0:
            assert edit[key] == value, "nothing is ablated before the first layer"
        if key[0] == "centroid_distance" and key[2] == 2:
            assert edit[key] != value and random[key] not in (value, edit[key])
    items = items_of(llava, picture)
    rule = affine(torch.arange(20), torch.zeros(20), torch.zeros(20))
    with editing(llava.layout, {0: rule, 1: rule}):
        places, _ = gathered(llava, [items], 10)
        states = by_hand(llava, items[0])[1]
    number = {p: v for p, v in places.tokens["text"].items() if p[0] == 0}
    assert all(np.allclose(v, states[:, position], atol=1e-4) for (_, position), v in number.items())


def test_layers_can_be_chosen(measured: tuple[Path, GeometryRun, GeometryRun], job: Job, tmp_path: Path) -> None:
    create.init(tmp_path / "one.atlas")
    settings = replace(SETTINGS, projections=("pca",))
    found = measure(tmp_path / "one.atlas", replace(job, layers="1"), Execution(), settings)
    layers = {(r["name"] == "attention_share", r["layer"]) for r in found.rows.to_pylist()}
    assert layers == {(False, 1), (False, 2), (True, 1)}
    whole = by_key(measured[1].rows, "before")
    assert all(whole[k] == pytest.approx(v, abs=1e-5) for k, v in by_key(found.rows, "before").items())


def test_what_cannot_be_done_is_said_first(
    measured: tuple[Path, GeometryRun, GeometryRun], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = measured[0]
    with pytest.raises(UsageError, match="of other weights"):
        measure(path, job, Execution(), SETTINGS, AblatedNeurons("x@1", (), "f" * 64))
    with pytest.raises(UsageError, match=r"atlas geometry reads answers in words, and draw asks .* other tasks"):
        measure(path, replace(job, tasks=("draw",), sources=("text",)), Execution(), SETTINGS)
    with pytest.raises(UsageError, match="no projection called 'mds'"):
        GeometrySettings(projections=("mds",))
    with pytest.raises(UsageError, match="must be at least 1"):
        GeometrySettings(sample=0)
    find, missing = importlib.util.find_spec, {"umap"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a))
    with pytest.raises(Unsupported, match="umap needs umap-learn: pip install umap-learn"):
        measure(path, job, Execution(), replace(SETTINGS, projections=("umap",)))
    missing.add("sklearn")
    with pytest.raises(Unsupported, match=r"pip install 'neuron-atlas\[analysis\]'"):
        measure(path, job, Execution(), SETTINGS)


def test_an_edit_and_labels_are_looked_without(
    measured: tuple[Path, GeometryRun, GeometryRun], job: Job, own_atlas: Path
) -> None:
    """By a request, of a stored edit and of saved neurons."""
    atlas = Atlas(own_atlas)
    neurons = atlas.query("dog", "contribution", source="text", top=7)
    atlas.create_edit("no-dog", neurons, kinds.ablate())
    for request, name in ((Geometry(edit="no-dog"), "no-dog@1"), (Geometry(of="edit:no-dog"), "edit:no-dog")):
        ablated = request.ablated(own_atlas)
        assert ablated is not None and len(ablated.intervention.changes) == 7 and ablated.name == name
        assert ablated.fingerprint == neurons.provenance["fingerprint"]
    with pytest.raises(UsageError, match="one of edit, labels and of"):
        Geometry(edit="no-dog", labels="3f")
    assert Geometry().ablated(own_atlas) is None
