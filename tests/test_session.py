"""A whole study in Python, line by line as someone types it in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atlas import Atlas, ablate, datasets, load_model, mean, noise, scale, steer
from atlas.questions.run import Record


def rendered(value: Any, title: str) -> None:
    """It has a line, and a table without scripts."""
    assert repr(value).startswith(title) and "\n" not in repr(value)
    html = value._repr_html_()
    assert "<table>" in html and "<script" not in html and len(html) < 300_000


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return Atlas.open(tmp_path_factory.mktemp("session") / "my.atlas", create=True)


def test_the_session_runs(atlas: Atlas, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rendered(atlas, "Atlas(my.atlas: 0 models, 0 runs, 0 maps)")
    run = atlas.ingest(
        "tiny-llava",
        datasets.scenes(),
        concepts=["dog", "cat"],
        methods=["contribution", "ablation", "activation"],
        device="cpu",
        dtype="float32",
        per_concept=8,
    )
    assert isinstance(run, Record)
    rendered(run, "Record(run ")
    rendered(atlas, "Atlas(my.atlas: 1 model, 1 run, ")

    dog = atlas.query("dog", method="contribution", source="image", top=50)
    rendered(dog, "NeuronSet(50 neurons: ")
    assert len(dog[:5]) == len(dog.head()) == 5 and dog[:5].provenance == dog.provenance
    assert dog["score"].to_pylist() == sorted(dog["score"].to_pylist(), reverse=True) and len(dog) == 50
    assert list(dog.to_pandas()["score"]) == dog["score"].to_pylist()
    assert dog.plot().get_xlabel() == "score by contribution"
    cat = atlas.query("cat", method="contribution", source="image", top=50)
    only_dog = dog - cat
    assert set(only_dog) == set(dog) - set(cat)

    shared = atlas.shared("dog", sources=("image", "text"), top=40)
    rendered(shared, "NeuronSet(")
    assert {"lift", "p_matched", "p_mismatched"} <= shared.facts.keys()
    assert shared.plot() is not None

    atlas.evaluate(method="contribution", doses=["1%", "5%"], concepts=["dog", "cat"], seeds=2, per_concept=8)
    assert len(atlas.leaderboard(by="selectivity").to_pandas())
    assert atlas.dose_response("dog", method="contribution").plot() is not None

    neuron = atlas.neuron("3/265")
    rendered(neuron, "Profile(neuron ")
    for part in (neuron.tokens, neuron.concepts):
        rendered(part, "Answer(")
    rendered(neuron.exemplars, "Strongest(")
    assert "<img" in neuron.exemplars._repr_html_()
    picture = tmp_path / "cat.jpg"
    draw(picture)
    heatmap = neuron.heatmap(str(picture), model="tiny-llava")
    rendered(heatmap, "HeatAnswer(1 rows: ")
    assert "<img" in heatmap._repr_html_()

    for kind in (scale(0.5), steer(2, unit="sd"), mean(), noise(0.1), ablate()):
        no_dog = atlas.create_edit("no-dog", only_dog, kind)
    rendered(no_dog, f"StoredEdit(no-dog@5: {len(only_dog)} neurons of dog in tiny-llava)")
    model, processor = load_model("tiny-llava")
    inputs = processor(text="what is this? a", return_tensors="pt")
    before = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    with no_dog.on(model):
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert (model.generate(**inputs, max_new_tokens=3, do_sample=False) == before).all(), "nothing is left of the edit"
    effects = atlas.evaluate("no-dog", split="held_out", seeds=5, per_concept=8)
    rendered(effects, "Answer(")
    assert len(effects.to_pandas().query("subset == 'concept'")) and effects.plot() is not None


def draw(file: Path) -> None:
    from ingest.datasets.scenes import build

    build().image("held_out/0").save(file)
