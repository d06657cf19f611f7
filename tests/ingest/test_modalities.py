"""MINER from end to end on models of several modalities: importance, selection, deactivation, the complement."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import families
import family_checks
import numpy as np
import pytest
import torch
from attribution import CONCEPTS, build, by_hand, feed, log_probability, maps_of

from atlas.live.media import KINDS, Clip, Medium
from atlas.maintain.check import check
from atlas.store.database import open_readonly
from cli.main import main
from ingest.attribution.item import Item
from ingest.data.examples import BadMedia, Example, Mention
from ingest.data.targets import find_targets
from ingest.datasets import scenes

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def qwen2_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-VL, which takes pictures and clips."""
    folder = tmp_path_factory.mktemp("qwen2-vl")
    model, processor = families.build("Qwen2-VL")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def ingested(atlas: Path, model: str, sources: str, capsys: pytest.CaptureFixture[Any], *more: str) -> str:
    job = ["ingest", "--model", model, "--sources", sources, "--tasks", "does", "--concepts", "dog,cat"]
    assert main([*job, "--methods", "miner,activation", "--atlas", str(atlas), "--no-progress", *more]) == 0
    return str(capsys.readouterr().out.split()[-1])


def effects(atlas: Path, edit: str, sources: str, capsys: pytest.CaptureFixture[Any], *more: str) -> dict[Any, float]:
    ask = ["evaluate", edit, "--tasks", "does", "--concepts", "dog,cat", "--sources", sources, "--seeds", "1"]
    capsys.readouterr()
    assert main([*ask, "--format", "json", "--atlas", str(atlas), *more]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    return {(r["source"], r["condition"], r["metric"]): r["value"] for r in rows if r["task"] == "*"}


def test_pictures_clips_and_words_of_one_model(
    qwen2_vl: Path, empty_atlas: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    run = ingested(empty_atlas, str(qwen2_vl), "image,video,text", capsys, "--per-concept", "2")
    with open_readonly(empty_atlas) as connection:
        found = connection.sql("SELECT DISTINCT source FROM maps WHERE method LIKE 'miner%'").fetchall()
    assert {"text", "special", "image", "video", "prompt"} <= {source for (source,) in found}
    place = ["--atlas", str(empty_atlas)]
    make = ["labels", "make", "--rule", "miner", "--runs", run[:8], "--strategy", "LA_MU", "--ratio", "0.1"]
    assert main([*make, *place]) == 0
    labelled = capsys.readouterr().out.split()[0]
    with open_readonly(empty_atlas) as connection:
        counts = dict(connection.sql("SELECT label, count(*) FROM labels GROUP BY label").fetchall())
    assert {"image", "video", "text", "special"} <= counts.keys()
    assert max(counts.values()) == int(0.1 * 2 * 64) // 4, "LA_MU gives every modality as many"
    for name, more in (("off", []), ("only", ["--complement"])):
        chosen = ["edit", "create", name, "--labels", f"{labelled}:video", "--set", "0", *more]
        assert main([*chosen, *place]) == 0
    off = effects(empty_atlas, "off", "image,video,text", capsys, "--per-concept", "2")
    only = effects(empty_atlas, "only", "image,video,text", capsys, "--per-concept", "2")
    assert {source for source, _, _ in off} >= {"image", "video", "text"}
    for source in ("image", "video", "text"):
        assert off[source, "edit", "kl"] > 0 == off[source, "before", "kl"]
        assert only[source, "edit", "kl"] > off[source, "edit", "kl"], "all but a few off does more than a few off"
    assert not check(empty_atlas)


def test_miner_on_a_model_that_hears(empty_atlas: Path, capsys: pytest.CaptureFixture[Any]) -> None:
    """2 % of the neurons, as many of each modality; without those of sound nearly all is still answered, with nothing
    but them next to nothing is."""
    run = ingested(empty_atlas, "tiny-audio", "audio,text", capsys, "--per-concept", "4", "--concepts", "all")
    place = ["--atlas", str(empty_atlas)]
    make = ["labels", "make", "--rule", "miner", "--runs", run[:8], "--ratio", "0.02"]
    assert main([*make, *place]) == 0
    labelled = capsys.readouterr().out.split()[0]
    with open_readonly(empty_atlas) as connection:
        counts = dict(connection.sql("SELECT label, count(*) FROM labels GROUP BY label").fetchall())
    assert counts == dict.fromkeys(("audio", "text", "special"), int(0.02 * 2048) // 3)
    for name, more in (("off", []), ("only", ["--complement"])):
        assert main(["edit", "create", name, "--labels", f"{labelled}:audio", "--set", "0", *more, *place]) == 0
    off, only = (
        effects(empty_atlas, name, "audio,text", capsys, "--per-concept", "8", "--concepts", "dog,cat,bus,bee,frog")
        for name in ("off", "only")
    )
    for source in ("audio", "text"):
        before, without = (off[source, condition, "accuracy"] for condition in ("before", "edit"))
        assert before == 1 and without > 0.9 > 0.4 > only[source, "edit", "accuracy"]
        assert only[source, "edit", "kl"] > 10 * off[source, "edit", "kl"] > 0 == off[source, "before", "kl"]


@pytest.mark.parametrize(
    ("family", "kind", "medium"),
    [
        ("Qwen2-Audio", "audio", family_checks.sound(0.4)),
        ("Qwen2-VL", "video", Clip(tuple(family_checks.pictures(4)))),
        ("Qwen2-VL", "image", family_checks.pictures(1)[0]),
    ],
)
def test_methods_read_the_positions_of_a_medium(family: str, kind: str, medium: Medium) -> None:
    """A plain mean of values there; and the central difference of scaling a neuron there and nowhere else."""
    live = family_checks.Subject(family).live
    prompt = live.encoder.prompt("what is this ?", [medium], "a dog")
    mentions = (Mention("dog"),)
    example = Example(kind, "name", "find", "what is this ?", "a dog", mentions)
    ends = live.encoder.ends(prompt.answer)
    targets = find_targets(example, live.encoder.decode(prompt.answer), ends, CONCEPTS, list(CONCEPTS))
    item = Item(0, prompt, tuple(targets))
    means = maps_of(feed(build("activation", positions=kind), live, [[item]], kind))["dog", "mean"].scores
    rises = maps_of(feed(build("gradient_x_activation", positions=kind), live, [[item]], kind))["dog", "mean"].scores
    here = torch.tensor(prompt.ids) == live.encoder.role_of.media_ids[kind]
    capture, _ = by_hand(live, item)
    for layer, down in enumerate(live.layout.down):
        assert torch.allclose(means[layer], capture.values[layer][0][: len(here)][here].mean(0), atol=1e-5)
        for neuron in rises[layer].abs().topk(2).indices.tolist():
            ends_of = []
            for gain in (1.02, 0.98):
                scale = torch.ones(len(prompt.ids) + len(prompt.answer), down.in_features)
                scale[: len(here)][here, neuron] = gain
                handle = down.register_forward_pre_hook(lambda _, args, scale=scale: (args[0] * scale,))
                ends_of.append(log_probability(live, item, "dog"))
                handle.remove()
            assert (ends_of[0] - ends_of[1]) / 0.04 == pytest.approx(float(rises[layer, neuron]), rel=0.05, abs=2e-4)
    other = next(one for one in KINDS if one != kind)
    assert build("activation", positions=other).sources == {other}, "a job asks it of no other examples"


def test_a_clip_is_a_scene_in_motion() -> None:
    world = scenes.build()
    frames = world.video("film/held_out/7")
    assert len(frames) == 4 and {frame.size for frame in frames} == {(64, 64)}
    assert [f.tobytes() for f in frames] == [f.tobytes() for f in world.video("film/held_out/7")]
    assert frames[0].tobytes() == world.image("held_out/7").tobytes(), "it begins as the scene of this number"
    changed = [int((np.asarray(a) != np.asarray(b)).any(-1).sum()) for a, b in itertools.pairwise(frames)]
    assert max(changed) > 20
    for address in ("held_out/7", "sound/find/0", "film/find/x", "film/"):
        with pytest.raises(BadMedia):
            world.video(address)
    with pytest.raises(BadMedia, match="is a video, not a picture"):
        world.image("film/find/0")
