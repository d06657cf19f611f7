"""What decides a number is part of the run; what is stored survives; nothing is mixed with what it is not."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scene_coco import write_coco

from atlas import Atlas
from atlas.edits import kinds
from atlas.errors import UsageError
from atlas.live.load.fingerprint import fingerprint
from atlas.maintain.check import check
from atlas.maintain.rebuild import rebuild
from atlas.store.database import open_readonly
from ingest.datasets import scenes
from ingest.evaluate.edit import Measures, evaluate
from ingest.evaluate.methods import ablate_tops
from ingest.job import Execution, Job, make_job
from ingest.run.ingest import ingest

pytestmark = pytest.mark.filterwarnings("ignore:no held-out examples:atlas.errors.AtlasWarning")


def count(atlas: Path, table: str) -> int:
    with open_readonly(atlas) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A COCO folder of drawn pictures, which the embedded model can caption."""
    folder = tmp_path / "coco"
    write_coco(scenes.build(), folder, 60, split="find")
    return folder


@pytest.fixture
def captions(photographs: Path) -> Job:
    return make_job({"dataset": f"coco:{photographs}", "concepts": ("dog", "cat", "car"), "per_concept": 4})


def test_a_changed_config_template_or_tokenizer_is_another_run(
    empty_atlas: Path, llava_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llava_folder, tmp_path / "model"))
    job = make_job({"model": str(folder), "concepts": ("dog",), "per_concept": 1, "sources": ("text",)})
    ids = [ingest(empty_atlas, job, Execution()).run_id]
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    ids.append(ingest(empty_atlas, job, Execution()).run_id)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " please")
    ids.append(ingest(empty_atlas, job, Execution()).run_id)
    assert len(set(ids)) == 3
    elsewhere = Path(shutil.copytree(folder, tmp_path / "moved"))  # the same content in another place
    assert ingest(empty_atlas, replace(job, model=str(elsewhere)), Execution()).run_id == ids[-1]


@pytest.mark.parametrize("same", [{"layers": "1,0"}, {"concepts": ("dog", "dog")}, {"reduce": ("contrast", "mean")}])
def test_one_job_written_in_two_ways_is_one_run(empty_atlas: Path, llava_folder: Path, same: dict[str, Any]) -> None:
    content = {"model": str(llava_folder), "concepts": ("dog",), "per_concept": 1, "layers": "0-1"}
    first = ingest(empty_atlas, make_job(content), Execution())
    again = ingest(empty_atlas, make_job(content | same), Execution())
    assert first.run_id == again.run_id and not again.fresh


def test_a_picture_that_changed_makes_another_run_and_is_captioned_again(
    empty_atlas: Path, photographs: Path, captions: Job
) -> None:
    first = ingest(empty_atlas, captions, Execution())
    assert count(empty_atlas, "responses") == first.outcome["examples"] - count_of(empty_atlas, "text")
    assert not ingest(empty_atlas, captions, Execution()).fresh
    answers = count(empty_atlas, "responses")
    for file in sorted((photographs / "images").iterdir()):
        Image.new("RGB", (64, 64), "grey").save(file)
    second = ingest(empty_atlas, replace(captions, sources=("text",)), Execution())
    assert second.fresh and count(empty_atlas, "responses") == answers  # no picture, no caption
    third = ingest(empty_atlas, captions, Execution())
    assert third.fresh and third.run_id != first.run_id
    assert count(empty_atlas, "responses") == 2 * answers
    assert check(empty_atlas) == []


def count_of(atlas: Path, source: str) -> int:
    with open_readonly(atlas) as connection:
        sql = "SELECT count(*) FROM examples WHERE source = ?"
        return int(connection.execute(sql, [source]).fetchall()[0][0])


def test_answers_are_made_once_for_every_method_and_evaluation(
    empty_atlas: Path, captions: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas.live.model import LiveModel

    ingest(empty_atlas, captions, Execution())
    asked: list[int] = []
    generate = LiveModel.generate
    monkeypatch.setattr(
        LiveModel, "generate", lambda self, prompts, **o: asked.append(len(prompts)) or generate(self, prompts, **o)
    )
    ingest(empty_atlas, replace(captions, methods={"activation": {"positions": "image", "pool": "max"}}), Execution())
    assert asked == []
    atlas = Atlas.open(empty_atlas)
    atlas.create_edit("no-dog", atlas.query("dog", "contribution", source="image", top=20), kinds.ablate())
    judged = replace(captions, split="held_out", per_concept=20, concepts=(), sources=("image",))
    edit = atlas.edit("no-dog").data
    evaluate(empty_atlas, edit, judged, Execution(), seeds=1, measures=Measures(metrics=()))
    made = sum(asked)
    assert made > 0
    evaluate(empty_atlas, edit, judged, Execution(), seeds=2, measures=Measures(metrics=()))
    assert sum(asked) == made
    evaluate(empty_atlas, edit, judged, Execution(), seeds=2)  # the dataset's metrics: answers of three edited models
    assert sum(asked) == 4 * made
    assert check(empty_atlas) == []


def test_a_run_whose_folder_lost_its_manifest_is_done_anew_and_nothing_is_lost(own_atlas: Path, small_job: Job) -> None:
    (manifest,) = own_atlas.glob("runs/*/manifest.json")
    tables = ("scores", "decodings", "exemplars", "examples", "responses")
    before = {table: count(own_atlas, table) for table in tables}
    manifest.unlink()
    assert check(own_atlas) != []
    assert ingest(own_atlas, small_job, Execution()).fresh
    assert check(own_atlas) == []
    rebuild(own_atlas)
    assert {table: count(own_atlas, table) for table in tables} == before


def test_means_are_of_the_edits_own_tap(own_atlas: Path, small_job: Job) -> None:
    atlas = Atlas.open(own_atlas)
    neurons = atlas.query("dog", "contribution", source="image", top=5)
    before = {c.neuron: c.bias for c in atlas.create_edit("calm", neurons, kinds.mean()).data.changes}
    ingest(own_atlas, replace(small_job, tap="gate", methods={"activation": {}}), Execution())
    after = {c.neuron: c.bias for c in atlas.create_edit("calm", neurons, kinds.mean()).data.changes}
    assert after == before
    product = atlas.query("dog", "activation", source="image", top=5)
    assert product.provenance["maps"][0]["tap"] == "product"  # a newer run at another tap does not take its place
    assert "tap=product (also stored: gate)" in product.provenance["assumed"]
    gate = atlas.query("dog", "activation", source="image", tap="gate", top=5)
    assert gate.provenance["maps"][0]["tap"] == "gate"
    with pytest.raises(UsageError, match="the taps gate and product"):
        atlas.create_edit("mixed", gate | neurons, kinds.ablate())


def test_a_survey_refuses_maps_of_other_weights(
    empty_atlas: Path, random_llava: Any, tmp_path: Path, small_job: Job
) -> None:
    folder = tmp_path / "model"
    for seed in (0, 1):
        model, processor = random_llava(seed=seed)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if seed == 0:
            ingest(empty_atlas, replace(small_job, model=str(folder), methods={"contribution": {}}), Execution())
    judged = replace(small_job, model=str(folder), split="held_out", per_concept=1)
    with pytest.raises(UsageError, match="is of other weights"):
        ablate_tops(empty_atlas, judged, Execution(), methods=["contribution"], tops=["5"], seeds=0)


def test_a_fingerprint_sees_writes_through_data_and_permutations(random_llava: Any) -> None:
    model, _ = random_llava(seed=4)
    seen = [fingerprint(model)]
    weight = model.model.language_model.layers[0].mlp.down_proj.weight
    weight.data[:, 3] = 0
    seen.append(fingerprint(model))
    weight.data = weight.data[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    seen.append(fingerprint(model))
    weight.data.copy_(weight.data[torch.randperm(32, generator=torch.Generator().manual_seed(0))])
    seen.append(fingerprint(model))
    assert len(set(seen)) == 4


HOLD = """
import sys
from pathlib import Path
from atlas.store.database import open_readonly
with open_readonly(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_an_ingest_waits_for_a_reader(empty_atlas: Path, small_job: Job) -> None:
    import subprocess
    import sys

    reader = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(empty_atlas)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None and reader.stdout.readline() == "held\n"
    release = threading.Timer(1.5, reader.communicate, [""])
    release.start()
    assert ingest(empty_atlas, replace(small_job, per_concept=1), Execution()).fresh
    assert reader.poll() is not None  # it could not have begun before
    release.join()
    assert check(empty_atlas) == []


def test_a_version_is_never_given_twice(own_atlas: Path, small_job: Job) -> None:
    atlas = Atlas.open(own_atlas)
    atlas.create_edit("no-dog", atlas.query("dog", top=5), kinds.ablate())
    judged = replace(small_job, split="held_out", per_concept=1)
    evaluate(own_atlas, atlas.edit("no-dog").data, judged, Execution(), seeds=0)
    atlas.remove_edit("no-dog")
    assert atlas.create_edit("no-dog", atlas.query("cat", top=5), kinds.ablate()).label == "no-dog@2"


def test_an_evaluation_without_a_question_about_the_concept_says_so(own_atlas: Path, small_job: Job) -> None:
    atlas = Atlas.open(own_atlas)
    atlas.create_edit("no-dog", atlas.query("dog", top=5), kinds.ablate())
    judged = replace(small_job, split="held_out", per_concept=1, concepts=("cat",))
    with pytest.raises(UsageError, match="asks about 'dog'"):
        evaluate(own_atlas, atlas.edit("no-dog").data, judged, Execution(), seeds=0)


def test_the_beginning_of_two_runs_is_refused(own_atlas: Path, small_job: Job) -> None:
    for seed in range(1, 5):
        ingest(own_atlas, replace(small_job, seed=seed, methods={"contribution": {}}, per_concept=1), Execution())
    atlas = Atlas.open(own_atlas)
    with pytest.raises(UsageError, match="several runs begin with"):
        atlas.shared("dog", "contribution", run="")  # every id begins so
    with pytest.raises(UsageError, match="run is a name"):
        atlas.query("dog", "contribution", source="text", run="")
    whole = {r["run"] for r in atlas.runs().to_pylist()}
    found = {atlas.query("dog", "contribution", run=run).provenance["maps"][0]["run_id"][:8] for run in whole}
    assert found == whole
