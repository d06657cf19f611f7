"""Pictures in class folders or with a table, and prompts in a file: what each row becomes, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import task_folders

from atlas.errors import AtlasWarning, UsageError
from ingest.data.examples import FIND, HELD_OUT, IMAGE, TEXT, Example, Mention
from ingest.datasets import folder, prompts


def every(dataset: Any, source: str) -> list[Example]:
    asked = {"concepts": list(dataset.concepts), "tasks": dataset.tasks[source], "per_concept": 999, "seed": 0}
    return [e for split in (FIND, HELD_OUT) for e in dataset.examples(source=source, split=split, **asked)]


def written(file: Path, *rows: Any) -> Path:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return file


# Prompts

FACT = {"prompt": "The capital of France is", "answer": "Paris", "concepts": ["France"]}


def test_a_prompt_is_an_example_whose_answer_stands_for_its_concepts(tmp_path: Path) -> None:
    more = {"references": ["Paris, France"], "task": "capital", "fact": 7}
    [example] = every(prompts.build(str(written(tmp_path / "x.jsonl", FACT | more))), TEXT)
    assert (example.prompt, example.answer, example.task) == (FACT["prompt"], "Paris", "capital")
    assert example.mentions == (Mention("France", "Paris"),)
    assert example.references == ("Paris", "Paris, France") and example.media == ()


@pytest.mark.parametrize(
    ("changed", "mention"),
    [
        ({"answer": "two dogs", "concepts": "dog"}, Mention("dog")),
        ({"answer": "it barks loudly", "concepts": "dog", "words": "barks"}, Mention("dog", "barks")),
        ({"answer": "it barks", "concepts": "dog"}, Mention("dog", "it barks")),
        ({"answer": "a hot-dog", "concepts": "dog"}, Mention("dog", "a hot-dog")),
    ],
)
def test_which_words_stand_for_a_concept(tmp_path: Path, changed: dict[str, Any], mention: Mention) -> None:
    [example] = every(prompts.build(str(written(tmp_path / "x.jsonl", FACT | changed))), TEXT)
    assert example.mentions == (mention,)


def test_an_example_of_two_concepts_is_found_by_both_and_is_one(tmp_path: Path) -> None:
    dataset = prompts.build(str(written(tmp_path / "x.jsonl", FACT | {"concepts": "France; city"})))
    assert list(dataset.concepts) == ["France", "city"]
    [example] = every(dataset, TEXT)
    for name in dataset.concepts:
        asked = {"concepts": [name], "tasks": ["fact"], "per_concept": 1, "seed": 0}
        assert dataset.examples(source=TEXT, split=example.split, **asked) == [example]


@pytest.mark.parametrize("given", [True, False])
def test_the_wordings_of_a_fact_are_in_one_split(tmp_path: Path, given: bool) -> None:
    rows = [
        {"prompt": f"{wording} {n}", "answer": f"City {n}", "concepts": "city"} | ({"fact": f"f{n}"} if given else {})
        for n in range(40)
        for wording in ("Capital of land", "The main city of land", "Name a city of land")
    ]
    split: dict[str | None, set[str]] = {}
    together: dict[str | None, set[str]] = {}
    for example in every(prompts.build(str(written(tmp_path / "x.jsonl", *rows))), TEXT):
        split.setdefault(example.answer, set()).add(example.split)
        together.setdefault(example.answer, set()).add(example.cluster)
    assert len(split) == 40 and all(len(found) == 1 for found in split.values())
    assert all(len(found) == 1 for found in together.values()) and len(set().union(*together.values())) == 40
    assert {name for found in split.values() for name in found} == {FIND, HELD_OUT}


def test_the_facts_are_part_of_the_revision(tmp_path: Path) -> None:
    """ "a" and "c" are on one side, so that the examples are equal otherwise."""
    rows = [FACT | {"fact": "a"}, FACT | {"prompt": "And?", "fact": "a"}]
    first = prompts.build(str(written(tmp_path / "x.jsonl", *rows)))
    rows[1]["fact"] = "c"
    other = prompts.build(str(written(tmp_path / "x.jsonl", *rows)))
    assert [e.id for e in every(first, TEXT)] == [e.id for e in every(other, TEXT)]
    assert first.revision != other.revision


def test_a_fact_that_is_given_joins_other_answers(tmp_path: Path) -> None:
    rows = [FACT | {"prompt": f"{n}?", "answer": f"{n}", "fact": "one"} for n in range(30)]
    assert len({e.split for e in every(prompts.build(str(written(tmp_path / "x.jsonl", *rows))), TEXT)}) == 1


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("{", "x.jsonl: line 2 is not JSON"),
        ("[1]", "x.jsonl: line 2 is not an object"),
        (FACT | {"prompt": " "}, "x.jsonl: line 2, the prompt is not text"),
        (FACT | {"answer": None}, "x.jsonl: line 2, the answer is not text"),
        (FACT | {"answer": 7}, "x.jsonl: line 2, the answer is not text: 7"),
        (FACT | {"concepts": []}, "x.jsonl: line 2 names no concept"),
        (FACT | {"concepts": [3]}, "x.jsonl: line 2, a concept is not text"),
        (FACT | {"concepts": 3}, "x.jsonl: line 2, a concept is not text: 3"),
        (FACT | {"concepts": {"a": 1}}, "x.jsonl: line 2, a concept is not text"),
        (FACT | {"concepts": "*"}, r"x.jsonl: line 2: the concept '\*' stands for all concepts"),
        (FACT | {"concepts": "a, b"}, "x.jsonl: line 2: the concept 'a, b' has a comma"),
        (FACT | {"words": "London"}, "x.jsonl: line 2: the words 'London' are not in the answer"),
        (FACT | {"references": "Paris"}, "x.jsonl: line 2: the references are not a list"),
        (FACT | {"fact": []}, "x.jsonl: line 2, the fact is not text"),
        (FACT | {"concept": "x"}, "x.jsonl: line 2 has concept; a row has prompt, answer, concepts"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        prompts.build(str(written(tmp_path / "x.jsonl", FACT, row)))


def test_equal_lines_are_told(tmp_path: Path) -> None:
    file = written(tmp_path / "x.jsonl", FACT, "", FACT | {"prompt": "Other?"}, FACT)
    with pytest.warns(AtlasWarning, match="equal rows: 1 of 3 left out: .*line 4 is the same as line 1"):
        assert len(every(prompts.build(str(file)), TEXT)) == 2


def test_concepts_that_differ_in_capitals_are_told(tmp_path: Path) -> None:
    file = written(tmp_path / "x.jsonl", FACT, FACT | {"concepts": "france; city"})
    with pytest.warns(AtlasWarning, match="only in capitals are scored separately.*: 'France' and 'france'$"):
        prompts.build(str(file))


@pytest.mark.parametrize("build", [prompts.build, folder.build])
def test_a_home_folder_that_nobody_has(build: Any) -> None:
    with pytest.raises(UsageError, match="there is no such home folder; give the full path"):
        build("~nobody-of-this-name/x")


def test_a_file_or_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "prompts.jsonl", FACT)
    monkeypatch.setenv("HOME", str(tmp_path))
    revisions = {prompts.build(p).revision for p in (str(tmp_path), str(tmp_path / "prompts.jsonl"), "~/prompts.jsonl")}
    assert len(revisions) == 1


# Pictures


@pytest.mark.parametrize("above", ["", "train/"])
def test_class_folders(tmp_path: Path, above: str) -> None:
    for n in range(10):
        task_folders.picture(tmp_path / above / "dog" / f"{n}.png", n)
        task_folders.picture(tmp_path / above / "Golden_Retriever" / "more" / f"{n}.jpg", n + 10)
    dataset = folder.build(str(tmp_path), question="which?")
    assert list(dataset.concepts) == ["dog", "golden retriever"]
    found = {e.media[0]: e for e in every(dataset, IMAGE)}
    assert len(found) == 20
    one = found[f"{above}Golden_Retriever/more/3.jpg"]
    assert (one.prompt, one.answer, one.task) == ("which?", "golden retriever", "name")
    assert one.mentions == (Mention("golden retriever"),) and dataset.image(one.media[0]).size == (9, 6)


def test_what_is_no_picture_of_a_class_is_told(tmp_path: Path) -> None:
    task_folders.picture(tmp_path / "dog" / "1.png", 1)
    task_folders.picture(tmp_path / "loose.png", 1)
    (tmp_path / "dog" / "notes.txt").write_text("x")
    with pytest.warns(AtlasWarning, match="not pictures of a class: 2 of 3 left out: loose.png; dog/notes.txt"):
        assert len(every(folder.build(str(tmp_path)), IMAGE)) == 1


def test_splits_and_other_folders_are_no_classes(tmp_path: Path) -> None:
    """Neither train/ nor what lies beside it is a concept."""
    for name in ("train/dog/1.png", "val/cat/2.png"):
        task_folders.picture(tmp_path / name, 1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "train" / "bird").mkdir()
    with pytest.warns(AtlasWarning, match="folders without pictures: 2 of 5 left out: notes; train/bird"):
        assert list(folder.build(str(tmp_path)).concepts) == ["cat", "dog"]
    task_folders.picture(tmp_path / "notes" / "3.png", 1)
    with pytest.raises(UsageError, match="has classes below train/ and pictures in notes/ beside it; keep one of them"):
        folder.build(str(tmp_path))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train/1.png", "car/2.png"):
        task_folders.picture(tmp_path / name, 1)
    assert list(folder.build(str(tmp_path)).concepts) == ["car", "train"]


def test_columns_that_nothing_is_made_of_are_told(tmp_path: Path) -> None:
    task_folders.picture(tmp_path / "1.png", 1)
    written(
        tmp_path / "x.jsonl", {"file": "1.png", "Concept": "dog", "label": "cat", "Question": "?", "Answer": "a dog"}
    )
    with pytest.warns(
        AtlasWarning, match=r"\(known are prompt, answer, words, task\): 2 of 5 ignored: label; question"
    ):
        [example] = every(folder.build(str(tmp_path)), IMAGE)
    assert (example.mentions, example.answer) == ((Mention("dog"),), "a dog")


@pytest.mark.parametrize(
    "table",
    [
        "metadata.csv\nfile_name,concepts,answer\n1.png,dog;animal,a dog\n2.png,cat,\n",
        'mine.csv\nPATH;Label;Answer\n1.png;"dog;animal";a dog\n.\\2.png;cat;\n',
        "mine.jsonl\n"
        '{"image": "1.png", "concepts": ["dog", "animal"], "answer": "a dog"}\n{"image": "2.png", "concepts": "cat"}',
    ],
)
def test_tables(tmp_path: Path, table: str) -> None:
    name, _, content = table.partition("\n")
    (tmp_path / name).write_text(content)
    for n in (1, 2):
        task_folders.picture(tmp_path / f"{n}.png", n)
    dataset = folder.build(str(tmp_path))
    found = {Path(e.media[0]).name: e for e in every(dataset, IMAGE)}
    assert (found["1.png"].answer, found["2.png"].answer) == ("a dog", None)
    assert found["1.png"].mentions == (Mention("dog"), Mention("animal", "a dog"))
    assert found["2.png"].mentions == (Mention("cat"),)
    assert found["1.png"].prompt == "What is this? Answer with one or two words."
    assert dataset.metrics == {}, "the task has a row without an answer to judge by"


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ("file_name,size\n1.png,3\n", "x.csv: line 2 has no concepts or concept or label"),
        ("size,label\n3,dog\n", "x.csv: line 2 has no file_name or"),
        ("file,label\n1.png,dog\n,cat\n", "x.csv: line 3, the file is not text"),
        ("file,label\n1.png,dog\n1.png,\n", "x.csv: line 3 names no concept"),
        ("file,label,answer,words\n1.png,dog,it barks,meows\n", "x.csv: line 2: the words 'meows' are not in"),
        ("file,label\n9.png,dog\n", "none of the files is below"),
        ("file,label\n1.png,a dog, a cat\n", "x.csv: line 2 has 3 cells"),
    ],
)
def test_a_bad_row_of_a_table_is_named(tmp_path: Path, table: str, match: str) -> None:
    task_folders.picture(tmp_path / "1.png", 1)
    (tmp_path / "x.csv").write_text(table)
    with pytest.raises(UsageError, match=match):
        folder.build(str(tmp_path))


@pytest.mark.parametrize("name", ["../1.png", "/etc/passwd", "C:/x.png"])
def test_a_row_that_leads_out_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.csv").write_text(f"file,label\n{name},dog\n")
    with pytest.raises(UsageError, match="x.csv: line 2: the name '.*' leads out of the dataset's folder"):
        folder.build(str(tmp_path))


def test_an_absolute_name_below_the_folder(tmp_path: Path) -> None:
    task_folders.picture(tmp_path / "a" / "1.png", 1)
    written(tmp_path / "x.jsonl", {"file": str(tmp_path / "a" / "1.png"), "label": "dog"})
    [example] = every(folder.build(str(tmp_path)), IMAGE)
    assert example.media == ("a/1.png",)


def test_which_table_or_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        task_folders.picture(tmp_path / name / "1.png", 1)
        (tmp_path / f"{name}.csv").write_text(f"file,label\n{name}/1.png,thing {name}\n")
    with pytest.raises(UsageError, match="has a.csv and b.csv"):
        folder.build(str(tmp_path))
    assert list(folder.build(str(tmp_path), table="b.csv").concepts) == ["thing b"]
    assert list(folder.build(str(tmp_path), table="none").concepts) == ["a", "b"]
    with pytest.raises(UsageError, match="has no c.csv; expected:"):
        folder.build(str(tmp_path), table="c.csv")


def test_a_picture_is_in_one_split_however_it_is_written(tmp_path: Path) -> None:
    for n in range(20):
        task_folders.picture(tmp_path / "images" / f"{n}.png", n)
    names = [f"{before}{n}.png" for n in range(20) for before in ("", "./", "images/", ".\\", "images\\")]
    rows = [{"file": name, "label": "dog", "prompt": f"what, as {place}?"} for place, name in enumerate(names)]
    written(tmp_path / "x.jsonl", *rows)
    assert {e.media[0] for e in every(folder.build(str(tmp_path)), IMAGE)} == {f"images/{n}.png" for n in range(20)}


def test_neither_a_table_nor_class_folders(tmp_path: Path) -> None:
    task_folders.picture(tmp_path / "1.png", 1)
    with pytest.raises(UsageError, match="expected: a folder of pictures for each class, or metadata.csv"):
        folder.build(str(tmp_path))
