"""Answers without and with an edit, side by side: against a model that is asked one question at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figure_parts import require_tidy

from atlas import Atlas
from atlas.edits.edited_answers import ROWS, EditedAnswers
from atlas.edits.kinds import set_to
from atlas.errors import UsageError
from atlas.figures import edit_answers
from atlas.testing import check_figure
from ingest.requests.generate import Generate

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def atlas(stored_atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """An atlas with an edit that changes what the model says."""
    import shutil

    own = Atlas.open(shutil.copytree(stored_atlas, tmp_path_factory.mktemp("answers") / "own.atlas"))
    own.create_edit("loud", own.query("dog", method="contribution", source="text", top=20), set_to(30.0))
    return own


@pytest.fixture(scope="module")
def asked(atlas: Atlas) -> EditedAnswers:
    return atlas.edit_answers("loud", questions=2)


def test_the_answers_are_those_of_one_question_at_a_time(atlas: Atlas, asked: EditedAnswers) -> None:
    edit, rows = atlas.edit("loud"), asked.to_pylist()
    for row in rows:
        pictures = [f"scenes:{pointer}" for pointer in row["media"]]
        without, edited = Generate(prompt=row["prompt"], image=pictures).compare(edit)
        assert (row["before"], row["edited"]) == (without.text, edited.text)
    assert any(row["before"] != row["edited"] for row in rows)


def test_questions_are_about_the_concept_and_others_each_of_another_picture(asked: EditedAnswers) -> None:
    rows = asked.to_pylist()
    kinds = [(row["source"], row["subset"]) for row in rows]
    assert kinds == [(s, o) for s in ("image", "text") for o in ("concept", "others") for _ in range(2)]
    assert all("dog" in row["prompt"] for row in rows if (row["source"], row["subset"]) == ("text", "concept"))
    pictures = [row["media"][0] for row in rows if row["media"]]
    assert len(set(pictures)) == len(pictures) == 4 == len(asked.seen)
    assert set(asked.facts["questions"]) == {f"{source}, {subset}" for source, subset in kinds}
    assert all(row["random"] is not None for row in rows)


def test_random_neurons_are_left_out_on_request(atlas: Atlas, asked: EditedAnswers) -> None:
    alone = atlas.edit_answers("loud", questions=2, no_random=True)
    assert alone["random"].null_count == len(alone) and alone.brief is not None
    assert "random" not in alone.brief.column_names
    assert alone["edited"].to_pylist() == asked["edited"].to_pylist()


def test_another_models_edit_is_refused(atlas: Atlas) -> None:
    with pytest.raises(UsageError, match="weights"):
        atlas.edit_answers("loud", model="tiny-llava")


def test_the_figure_shows_each_question_and_bold_what_changed(asked: EditedAnswers) -> None:
    figure = asked.plot().figure
    axes = [axis for axis in figure.axes if axis.texts]
    assert len(axes) == len(asked)
    for axis, row in zip(axes, asked.to_pylist(), strict=True):
        texts = [text.get_text() for text in axis.texts]
        assert texts[0].split()[:2] == row["prompt"].split()[:2]
        bold = [text for text in axis.texts if text.get_weight() == "bold"]
        changed = [name for name in ("edited", "random") if row[name] != row["before"]]
        assert bool(bold) == bool(changed)
        if row["media"]:
            [picture] = axis.child_axes
            assert np.array_equal(picture.get_images()[0].get_array(), asked.seen[row["example"]])
    assert axes[0].get_title(loc="left").startswith("image questions about dog (n = 2 of ")
    require_tidy(figure)


def test_the_figure_keeps_its_contract_and_its_room(asked: EditedAnswers) -> None:
    check_figure(edit_answers, asked[:1])
    with pytest.raises(UsageError, match="8 panels"):
        asked.plot(ax=plt.subplots()[1])
    import pyarrow as pa

    rows = [row | {"example": str(n)} for n in range(13) for row in asked.to_pylist()[:2]]
    many = EditedAnswers(pa.Table.from_pylist(rows, schema=ROWS), facts=asked.facts)
    with pytest.raises(UsageError, match="room for 24 questions, and the answer has 26"):
        edit_answers.draw(many)


def test_long_and_strange_texts_stay_inside(asked: EditedAnswers) -> None:
    import pyarrow as pa

    row: dict[str, Any] = asked.to_pylist()[0]
    row |= {"prompt": "a question that never ends " * 20, "edited": "x" * 500, "before": "", "random": "\u4f60\n$x$"}
    answer = EditedAnswers(pa.Table.from_pylist([row], schema=ROWS), facts=asked.facts)
    answer.seen = asked.seen
    axis = edit_answers.draw(answer)
    require_tidy(axis.figure)
    texts = [text.get_text() for text in axis.texts]
    assert "(nothing)" in texts and "\\u4f60 $x$" in texts
