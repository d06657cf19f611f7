"""Edits of what is drawn: the least change of write vectors, what it does to pictures, and the judges of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from atlas.api.atlas import Atlas
from atlas.errors import UsageError
from cli.main import main
from ingest import zoo
from ingest.datasets import scenes
from ingest.draw.picture_judge import ClassifierJudge, ZeroShotJudge, load_judge
from ingest.solve.drawing import least_norm_deltas

pytestmark = pytest.mark.filterwarnings("ignore")
WORLD = scenes.build()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas of what the embedded model draws and says of two concepts."""
    pytest.importorskip("diffusers")
    atlas = tmp_path_factory.mktemp("drawn") / "drawn.atlas"
    assert main(["init", "--atlas", str(atlas)]) == 0
    job = ["--model", "tiny-gill", "--sources", "text", "--tasks", "does,draw", "--concepts", "dog,cat,car"]
    job += ["--methods", "nam_image,contribution,activation", "--per-concept", "3", "--draw-option", "steps=6"]
    assert main(["ingest", "--atlas", str(atlas), *job, "--draw-option", "looks=2", "--no-progress"]) == 0
    return atlas


def test_the_least_change_is_the_pseudo_inverses() -> None:
    generator = torch.Generator().manual_seed(0)
    values, change = torch.randn(3, 8, generator=generator), torch.randn(3, 5, generator=generator)
    found = least_norm_deltas(values, change)
    torch.testing.assert_close(values @ found, change, atol=1e-4, rtol=1e-4)
    # Any other solution is this one and a part that the values do not see: longer.
    null = torch.eye(8) - torch.linalg.pinv(values) @ values
    other = found + null @ torch.randn(8, 5, generator=generator)
    torch.testing.assert_close(values @ other, change, atol=1e-3, rtol=1e-3)
    assert other.norm() > found.norm()
    one = torch.randn(1, 8, generator=generator)
    torch.testing.assert_close(
        least_norm_deltas(one, change[:1]), one.T @ change[:1] / (one**2).sum(), atol=1e-5, rtol=1e-4
    )
    with pytest.raises(UsageError, match="all 0 where pictures are requested"):
        least_norm_deltas(torch.zeros(3, 2), change)


def test_dogs_become_cats_and_nothing_else(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--atlas", str(drawn)]
    solve = ["edit", "solve", "draw-cat", "--from", "dog", "--to", "cat", "--target", "image", "--model", "tiny-gill"]
    how = ["--method", "nam_image", "--source", "text", "--top", "40", "--per-concept", "8"]
    assert main([*solve, *how, *place]) == 0
    edit = Atlas(drawn).edit("draw-cat").data
    report = edit.provenance["solver"]["report"]
    assert edit.provenance["solver"]["target"] == "image" and edit.concept == "dog" and len(edit.neurons) == 40
    assert 0.5 < report["moved"] < 1.5 and report["delta_norm"] > 0
    assert report["random_norm_least"] <= report["random_norm_median"]
    assert 0 <= report["random_that_reach"] <= report["random_draws"]
    ask = ["--tasks", "draw,does", "--concepts", "dog,car", "--per-concept", "4", "--seeds", "1", "--format", "json"]
    capsys.readouterr()
    assert main(["evaluate", "draw-cat", *ask, "--sources", "text", "--pictures", str(tmp_path), *place]) == 0
    import json

    rows = json.loads(capsys.readouterr().out)["rows"]
    at = {(r["task"], r["subset"], r["condition"], r["metric"]): r["value"] for r in rows}
    assert at["draw", "concept", "before", "drawn"] == 1.0
    assert at["draw", "concept", "edit", "became"] >= 0.5 > at["draw", "concept", "edit", "drawn"]
    assert at["draw", "others", "edit", "drawn"] == 1.0 and at["draw", "others", "edit", "became"] == 0.0
    assert at["draw", "others", "before", "region_overlap"] == 1.0
    assert at["draw", "concept", "edit", "region_overlap"] < at["draw", "others", "edit", "region_overlap"]
    assert at["does", "concept", "edit", "accuracy"] == 1.0, "what dogs do is still said"
    names = sorted(file.name for file in tmp_path.glob("*.png"))
    assert len(names) == 16 and Image.open(tmp_path / names[0]).size == (32, 32)
    requests = (tmp_path / "requests.tsv").read_text().splitlines()
    assert len(requests) == 9 and requests[0] == "number\tconcept\trequest"
    drawing = {"steps": 6, "looks": 2}
    answers = Atlas(drawn).edit_answers("draw-cat", sources=["text"], tasks=["draw"], questions=1, drawing=drawing)
    of_dog = answers.to_pylist()[0]
    assert of_dog["task"] == "draw" and of_dog["before"] == of_dog["edited"] == "[picture]"
    pictures = {name: answers.drawn[of_dog["example"], name] for name in ("before", "edited", "random")}
    assert {picture.shape for picture in pictures.values()} == {(32, 32, 3)}
    assert not np.array_equal(pictures["before"], pictures["edited"])
    shown = [inset.get_images()[0].get_array() for inset in answers.plot().child_axes]
    assert all(np.array_equal(a, b) for a, b in zip(shown, pictures.values(), strict=True))


def test_without_the_neurons_of_a_method_the_thing_is_not_drawn(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best of nam_image against as many random neurons: only they take the thing away, and little of the others."""
    ask = ["evaluate", "--model", "tiny-gill", "--method", "nam_image", "--tasks", "draw"]
    ask += ["--top", "40", "--per-concept", "2", "--seeds", "1", "--concepts", "dog,car", "--draw-option", "steps=6"]
    assert main([*ask, "--draw-option", "looks=2", "--no-progress", "--format", "json", "--atlas", str(drawn)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["edit"] for row in rows} == {f"nam_image[image]:40:contrast:{name}" for name in ("dog", "car")}
    told = {}
    for row in rows:
        if row["metric"] == "drawn" and row["task"] == "*":
            told.setdefault((row["subset"], row["condition"]), []).append(row["value"])
    mean = {key: sum(values) / len(values) for key, values in told.items()}
    assert mean["concept", "before"] > 0.9 and mean["concept", "edit"] < 0.3 < 0.7 < mean["concept", "random"]
    assert mean["others", "edit"] > mean["concept", "edit"] + 0.3
    assert main([*ask, "--pictures", "here", "--atlas", str(drawn)]) == 2
    assert "--pictures are of one edit" in capsys.readouterr().err


def test_targets_are_compared_where_both_are_explained(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures are asked for in words: the source is text for both targets, named or not."""
    both = ["shared", "--concepts", "all", "--method", "contribution", "--targets", "text,image", "--format", "json"]
    for more in ([], ["--sources", "text"]):
        assert main([*both, *more, "--atlas", str(drawn)]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert {row["concept"] for row in rows} == {"dog", "cat", "car"}


def test_what_is_asked_wrongly_is_refused(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--atlas", str(drawn), "--model", "tiny-gill"]
    solve = ["edit", "solve", "x", "--from", "dog"]
    for more, wanted in (
        (["--to", "cat", "--target", "image"], "--target image needs neurons"),
        (["--target", "image", "--method", "nam_image"], "makes one concept of another"),
        (["--to", "cta", "--target", "image", "--method", "nam_image"], "no concept called 'cta'; did you mean"),
        (["--to", "cow", "--target", "image", "--method", "nam_image"], "no find example of cow"),
        (["--to", "dog", "--target", "image", "--method", "nam_image"], "'dog' would become itself"),
        (["--to", "cat", "--target", "image", "--solver", "rank_one"], "rank_one changes what is said"),
        (["--to", "cat", "--target", "image", "--keep", "3", "--prompt", "x"], "--prompt and --keep: of edits of what"),
        (["--to", "cat", "--target", "sound"], "--target text or image, not 'sound'"),
    ):
        assert main([*solve, *more, *place]) == 2
        assert wanted in capsys.readouterr().err


def test_the_models_own_judge_knows_the_things() -> None:
    judge = load_judge(Path(zoo.resolve("tiny-gill")) / "judge")
    assert isinstance(judge, ClassifierJudge)
    names = ["dog", "car"]
    pictures = [WORLD.image(f"held_out/{n}") for n in range(18)]  # one of every thing
    probabilities, best = judge.judge(pictures, [WORLD.concepts[name] for name in names])
    assert probabilities.shape == (18, 2) and probabilities.sum(1).max() <= 1 + 1e-6
    for number, place in enumerate(best):
        [shown] = WORLD.shown(f"held_out/{number}")
        assert place == (names.index(shown) if shown in names else -1)
    assert [c.name for c in judge.known([WORLD.concepts["cow"], WORLD.concepts["dog"]])] == ["dog"]


def test_a_clip_judges_by_names(tmp_path: Path) -> None:
    import small_encoders
    from transformers import CLIPProcessor

    folder = small_encoders.clip(tmp_path)
    judge = load_judge(folder)
    assert isinstance(judge, ZeroShotJudge) and isinstance(judge.reader, CLIPProcessor)
    pictures = [WORLD.image(f"held_out/{n}") for n in range(3)]
    concepts = [WORLD.concepts[name] for name in ("dog", "cat", "fish")]
    probabilities, best = judge.judge(pictures, concepts)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5) and best.tolist() == probabilities.argmax(1).tolist()
    with pytest.raises(UsageError, match="the judge of pictures cannot load the model"):
        load_judge(tmp_path / "none")


def test_a_picture_of_an_answer_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[Any]) -> None:
    pytest.importorskip("diffusers")
    file = tmp_path / "dog.png"
    assert main(["generate", "--model", "tiny-gill", "--prompt", "draw a red dog.", "--draw", str(file)]) == 0
    assert capsys.readouterr().out == "[picture]\n"
    judge = load_judge(Path(zoo.resolve("tiny-gill")) / "judge")
    _, best = judge.judge([Image.open(file)], [WORLD.concepts["dog"]])
    assert best.tolist() == [0]
    asked = ["generate", "--model", "tiny-gill", "--prompt", "what does a dog do?", "--draw", str(tmp_path / "x.png")]
    assert main(asked) == 1
    told = capsys.readouterr()
    assert told.out == "barks\n" and "the answer has no picture; ask for one" in told.err
    for name, wanted in (
        ("x.odd", "is not a name for a picture"),
        (".", "is not a name"),
        ("no/x.png", "there is no folder"),
    ):
        assert main([*asked[:-1], str(tmp_path / name)]) == 2
        assert wanted in capsys.readouterr().err
    assert main(["generate", "--model", "tiny-llava", "--prompt", "draw a dog.", "--draw", str(file)]) == 5
    assert "tiny-llava draws no pictures; ask for text" in capsys.readouterr().err
