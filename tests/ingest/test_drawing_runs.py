"""Runs that draw: what decides their ids, precisions, portions, judges, and what they say where nothing was drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from PIL import Image

from atlas.api.atlas import Atlas
from atlas.errors import UsageError
from atlas.live.draw.drawer import DrawOptions
from atlas.live.model import LiveModel
from cli.main import main
from ingest import zoo
from ingest.data.examples import IMAGE, TEXT, Example, Mention
from ingest.datasets import scenes
from ingest.draw.picture_judge import ZeroShotJudge, judge_for
from ingest.evaluate.drawn import DrawingEvaluator
from ingest.job import Execution, make_job
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.generate import PICTURE, generate_answer
from ingest.run.ingest import ingest
from ingest.run.map_step import portions
from ingest.run.prepare import collect
from ingest.run.resolve import complete, identity, resolved, run_id

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")
WORLD = scenes.build()
DRAW = {"tasks": ["draw"], "sources": ["text"], "concepts": ["dog", "car"], "drawing": {"steps": 4, "looks": 2}}


@pytest.fixture(scope="module")
def gill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gill") / "gill"
    shutil.copytree(zoo.resolve("tiny-gill"), folder)
    return folder


def job_of(folder: Path, **more: Any) -> Any:
    return make_job({"model": str(folder), "methods": {"nam_image": {}}, "per_concept": 2, **DRAW, **more})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_draws_and_scores_as_single_does(gill: Path, empty_atlas: Path, dtype: str) -> None:
    found = {}
    for precision in ("float32", dtype):
        ingest(empty_atlas, job_of(gill, dtype=precision), Execution())
        set_ = Atlas(empty_atlas).query("dog", "nam_image", target="image", reduce="mean", select="top:40")
        found[precision] = set(set_.neurons)
    assert len(found["float32"] & found[dtype]) >= 30


def test_the_id_of_a_run_is_also_of_what_draws(gill: Path, tmp_path: Path) -> None:
    other = tmp_path / "gill"
    shutil.copytree(gill, other)

    def id_of(folder: Path, **more: Any) -> str:
        live = LiveModel.load(folder)
        job = complete(job_of(folder, **more), WORLD, frozenset({"text"}))
        examples = collect(job, WORLD)
        return run_id(resolved(job, WORLD, examples, identity(live, job, WORLD, examples)))

    first = id_of(gill)
    words = id_of(gill, tasks=["does"])
    assert id_of(other) == first
    config = other / "diffusion" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "epsilon"}))
    assert id_of(other) != first and id_of(other, tasks=["does"]) == words
    shutil.copy(gill / "diffusion" / "scheduler" / "scheduler_config.json", config)
    assert id_of(other) == first
    from safetensors.torch import load_file, save_file

    [weights] = (other / "diffusion" / "unet").glob("*.safetensors")
    save_file({k: v * 0.5 for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    assert id_of(other) != first


def test_a_segmentation_models_weights_count_and_not_where_it_runs(gill: Path, tmp_path: Path) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

    live, ids = LiveModel.load(gill), []
    sizes = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = SegformerConfig(**sizes, id2label={0: "wall", 1: "dog"}, label2id={"wall": 0, "dog": 1})
        folder = tmp_path / str(seed)
        SegformerForSemanticSegmentation(config).save_pretrained(folder)
        SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    for seed, concepts, device in (
        (0, ["dog"], "cpu"),
        (0, ["dog"], "auto"),
        (1, ["dog"], "cpu"),
        (0, ["dog", "car"], "cpu"),
    ):
        options = {"model": str(tmp_path / str(seed)), "device": device}
        given = job_of(gill, segmenter="hf", segmenting=options, concepts=concepts)
        job = complete(given, WORLD, frozenset({"text"}))
        examples = collect(job, WORLD)
        if "car" in concepts:
            with pytest.raises(UsageError, match="the segmentation model has no label for car; it has wall, dog"):
                identity(live, job, WORLD, examples)
            continue
        plain = resolved(job, WORLD, examples, identity(live, job, WORLD, examples))
        plain["segmenting"].pop("model")
        ids.append(run_id(plain))
    assert ids[0] == ids[1] != ids[2]


def test_pictures_come_in_small_portions() -> None:
    """Each may take minutes: an interrupted run keeps what was finished."""
    draw = [Example(TEXT, "draw", "find", f"draw {n}", None, (Mention("dog"),), target=IMAGE) for n in range(40)]
    words = [Example(TEXT, "does", "find", f"what {n}", "barks", (Mention("dog"),)) for n in range(40)]
    assert [len(p) for p in portions(list(enumerate(draw)))] == [8] * 5
    assert [len(p) for p in portions(list(enumerate(words)))] == [40]
    assert max(len(p) for p in portions(list(enumerate(words[:2] + draw)))) == 8


def test_a_clip_judges_among_all_concepts(gill: Path, tmp_path: Path) -> None:
    """Were it asked about the one thing alone, whatever is drawn would be that."""
    import small_encoders

    live, notes = LiveModel.load(gill), list[str]()
    job = complete(job_of(gill, concepts=["dog"]), WORLD, frozenset({"text"}))
    examples = collect(job, WORLD)
    concepts = list(WORLD.concepts.values())
    judge = judge_for(live, examples, concepts, str(small_encoders.clip(tmp_path)), notes)
    assert isinstance(judge, ZeroShotJudge) and not notes
    evaluator = DrawingEvaluator(ExampleEncoder(live, WORLD, job), examples, judge, 4, goal="dog")
    scores = evaluator.evaluate()
    assert 0 < scores.values["drawn_probability"].max() < 0.9
    assert np.isnan(scores.values["became"]).all(), "a dog that was asked for did not become one"


def test_a_judge_must_know_what_is_asked_for_and_something_else(gill: Path, tmp_path: Path) -> None:
    live, notes = LiveModel.load(gill), list[str]()
    asked = [Example(TEXT, "draw", "find", "draw a cow", None, (Mention("cow"),), target=IMAGE)]
    concepts = [WORLD.concepts[name] for name in ("cow", "dog", "car")]
    with pytest.raises(UsageError, match="the judge does not know cow; it knows dog, car"):
        judge_for(live, asked, concepts, None, notes)
    dogs = [Example(TEXT, "draw", "find", "draw a dog", None, (Mention("dog"),), target=IMAGE)]
    with pytest.raises(UsageError, match="the judge knows only one concept of the dataset"):
        judge_for(live, dogs, [WORLD.concepts["dog"]], None, notes)
    own = str(gill / "judge")
    hub = LiveModel(live.model, live.encoder.processor, name="hub/gill")
    assert judge_for(hub, dogs, concepts, own, notes) is not None, "a model without a folder needs --judge alone"
    assert not notes and judge_for(hub, dogs, concepts, None, notes) is None
    assert notes == ["no judge for the drawn pictures: name an image classifier or a CLIP as the judge"]
    assert judge_for(hub, [], concepts, "none", notes) is None


@pytest.mark.parametrize("family", ["Janus", "Emu3"])
def test_pictures_made_of_tokens_are_asked_for(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = families.build(family)
    live = LiveModel(model, processor, name=family)
    if family == "Emu3":  # whose usual side takes thousands of tokens
        monkeypatch.setattr("ingest.run.generate.DrawOptions", lambda: DrawOptions(side=2))
    said, picture = generate_answer(live, "draw a dog", [], seed=0)
    assert picture is not None and said.endswith(PICTURE)


def test_a_safety_checker_is_not_silent() -> None:
    live = LiveModel.load(Path(zoo.resolve("tiny-gill")))
    painter = live.drawer.painter  # type: ignore[attr-defined]
    prompt = painter.encode(["a red dog on the grass", "a blue car on the sand"])

    painter.pipeline.run_safety_checker = lambda image, *_: (image, [True, False])
    with pytest.warns(UserWarning, match="blackened 1 of 2 pictures"):
        painter.paint(prompt, seeds=[0, 1], steps=2)


def test_where_nothing_was_drawn_or_found_it_is_said(empty_atlas: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["ingest", "--model", "tiny-gill", "--sources", "text", "--tasks", "draw", "--methods", "nam_image"]
    job += ["--concepts", "dog", "--per-concept", "2", "--no-progress", "--atlas", str(empty_atlas)]
    job += ["--draw-option", "steps=4"]
    for more, wanted in (
        (["--max-new-tokens", "4"], "no answer to 2 requests has a picture; give a larger --max-new-tokens"),
        (
            ["--segment-option", "distance=600"],
            "the segmenter 'colour' found no region of the requested concepts (dog 2x)",
        ),
    ):
        assert main([*job, *more]) == 1
        assert wanted in " ".join(capsys.readouterr().err.split())
    for option in ("guidance=nan", "steps=0"):
        assert main([*job, "--draw-option", option]) == 2
        assert "a picture takes at least 1 step, a guidance that is a number" in capsys.readouterr().err


def test_pictures_of_an_earlier_evaluation_are_replaced(tmp_path: Path, gill: Path) -> None:
    (tmp_path / "000-cat-edit.png").write_bytes(b"old")
    (tmp_path / "mine.png").write_bytes(b"mine")
    live = LiveModel.load(gill)
    job = complete(job_of(gill, concepts=["dog"], per_concept=1), WORLD, frozenset({"text"}))
    examples = collect(job, WORLD)
    judge = judge_for(live, examples, list(WORLD.concepts.values()), None, [])
    assert judge is not None
    evaluator = DrawingEvaluator(ExampleEncoder(live, WORLD, job), examples, judge, 4)
    evaluator.evaluate()
    assert evaluator.save(tmp_path) == len(examples)
    assert {file.name for file in tmp_path.glob("*.png")} == {"mine.png", "000-dog-before.png"}
    assert Image.open(tmp_path / "000-dog-before.png").size == (32, 32)
