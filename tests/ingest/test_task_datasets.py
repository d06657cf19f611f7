"""The loaders of task evaluations: each layout by hand, and one model that answers; the contract has the rest."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_folders as folders
from scene_coco import write_coco
from task_folders import COUNT

from atlas.errors import AtlasError, Unsupported, UsageError
from cli.main import main
from ingest.data import media
from ingest.data.examples import AUDIO, FIND, HELD_OUT, IMAGE, TEXT, VIDEO, BadMedia, Dataset, Example, Mention
from ingest.datasets import coco, coco_captions, librispeech, mmlu, msvd_qa, scenes, textvqa, vocalsound

EYES = frozenset({"image", "text"})


def every(dataset: Dataset, *splits: str, per_concept: int = 10_000, seed: int = 0) -> list[Example]:
    [(source, tasks)] = dataset.all_tasks.items()
    asked: dict[str, Any] = {"concepts": list(dataset.concepts), "tasks": tasks, "per_concept": per_concept}
    found = [dataset.examples(source=source, split=s, seed=seed, **asked) for s in splits or (FIND, HELD_OUT)]
    return [e for some in found for e in some]


def changed(file: Path, change: Callable[[Any], object]) -> None:
    """A JSON file with its content changed in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# What an example is


def test_references_are_part_of_the_content_only_where_there_are_any() -> None:
    mentions = (Mention("dog"), Mention("cat", "meows"))
    plain = Example(IMAGE, "caption", FIND, "describe", "a dog", mentions, ("1.jpg",))
    assert plain.id == "464543f81f1a083e1d8fad5c208dc966", "stored examples would be orphans"
    judged = Example(IMAGE, "caption", FIND, "describe", "a dog", mentions, ("1.jpg",), ("a dog", "one dog"))
    other = Example(IMAGE, "caption", FIND, "describe", "a dog", mentions, ("1.jpg",), ("one dog", "a dog"))
    assert len({plain.id, judged.id, other.id}) == 3


def test_what_a_model_says_of_a_coco_picture_is_judged_by_its_captions(tmp_path: Path) -> None:
    world = scenes.build()
    write_coco(world, tmp_path, 20)
    dataset = coco.build(str(tmp_path))
    found = dataset.examples(
        source=IMAGE, split=FIND, concepts=list(dataset.concepts), tasks=["caption"], per_concept=99, seed=0
    )
    said = {e.media[0]: e.references for e in found}
    assert said and all(len(references) == 1 for references in said.values())
    assert all(e.answer is None for e in found)
    (tmp_path / "annotations" / "captions.json").unlink()
    bare = coco.build(str(tmp_path))
    assert dict(dataset.metrics) == {"caption": ("bleu", "rouge_l", "cider")} and dict(bare.metrics) == {}
    assert {e.references for e in every_of(bare)} == {()}


def every_of(dataset: Dataset) -> list[Example]:
    return dataset.examples(
        source=IMAGE, split=FIND, concepts=list(dataset.concepts), tasks=["caption"], per_concept=99, seed=0
    )


# textvqa


def test_textvqa_takes_the_most_frequent_answer_and_keeps_all_ten(tmp_path: Path) -> None:
    dataset = textvqa.build(str(folders.textvqa(tmp_path)))
    found = every(dataset)
    assert len(found) == 2 * COUNT
    example = next(e for e in found if e.answer == "brand 3")
    assert (example.source, example.task, example.prompt) == (IMAGE, "vqa", "what brand is this?")
    assert example.references == ("brand 3", "other", "Other", *["brand 3"] * 7)
    assert example.media == (f"train_images/{3:016x}.jpg",)
    assert example.mentions == (Mention("textvqa", "brand 3"),)
    assert dataset.licence == "CC BY 4.0, as stated by its authors"
    assert dict(dataset.metrics) == {"vqa": ("vqa", "vqa_any")}


def test_of_equally_frequent_answers_the_first_counts(tmp_path: Path) -> None:
    file = folders.textvqa(tmp_path) / "TextVQA_0.5.1_val.json"
    changed(file, lambda whole: whole["data"][0].update(answers=["  stella  artois ", "b", " ", "b", "stella artois"]))
    [example] = [e for e in every(textvqa.build(str(tmp_path))) if len(e.references) == 4]
    assert example.answer == "stella artois"


@pytest.mark.parametrize("place", ["images", "train_val_images/train_images", "val_images", "."])
def test_textvqa_pictures_are_found_where_people_keep_them(tmp_path: Path, place: str) -> None:
    folders.textvqa(tmp_path)
    before = {e.split: e for e in every(textvqa.build(str(tmp_path)), per_concept=1)}
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for file in sorted((tmp_path / "train_images").iterdir()):
        file.rename(tmp_path / place / file.name)
    dataset = textvqa.build(str(tmp_path))
    for example in every(dataset):
        assert example.media[0].rpartition("/")[0] == (place if place != "." else "")
        assert dataset.image(example.media[0]).size == (9, 6)
    assert set(before) == {FIND, HELD_OUT}


def test_an_instruction_is_part_of_the_prompt_and_of_the_revision(tmp_path: Path) -> None:
    folders.textvqa(tmp_path)
    plain, told = textvqa.build(str(tmp_path)), textvqa.build(str(tmp_path), instruction="Answer in one word.")
    assert {e.prompt for e in every(told)} == {f"what {w} is this?\nAnswer in one word." for w in ("brand", "number")}
    assert plain.revision != told.revision


def test_textvqa_parts_and_doubled_rows(tmp_path: Path) -> None:
    folders.textvqa(tmp_path, "train")
    with pytest.raises(UsageError, match=r"has no TextVQA_\[0-9\]\*_val.json; expected: TextVQA_0.5.1_val.json beside"):
        textvqa.build(str(tmp_path))
    with pytest.raises(UsageError, match="no part called 'trian'; did you mean 'train'"):
        textvqa.build(str(tmp_path), part="trian")
    assert len(every(textvqa.build(str(tmp_path), part="train"))) == 2 * COUNT
    file = tmp_path / "TextVQA_0.5.1_train.json"
    changed(file, lambda whole: whole["data"].append(whole["data"][0]))
    with pytest.raises(UsageError, match=f"row {2 * COUNT} has the question_id 0 a second time"):
        textvqa.build(str(tmp_path), part="train")
    changed(file, lambda whole: whole["data"][-1].update(question_id=77))
    assert len(every(textvqa.build(str(tmp_path), part="train"))) == 2 * COUNT, "the same content is one example"
    shutil.copy(file, tmp_path / "TextVQA_0.5_train.json")
    with pytest.raises(UsageError, match="has TextVQA_0.5.1_train.json and TextVQA_0.5_train.json; keep one"):
        textvqa.build(str(tmp_path), part="train")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda whole: whole.pop("data"), "has no list of data"),
        (lambda whole: whole.update(data=[]), "has no rows; there is nothing to ingest"),
        (lambda whole: whole["data"][5].pop("answers"), "an answer of row 5 is missing; the test part has no answers"),
        (lambda whole: whole["data"][5].update(answers=["", " "]), "an answer of row 5 is missing"),
        (lambda whole: whole["data"][5].update(answers=["a", 7]), "an answer of row 5 is not text: 7"),
        (lambda whole: whole["data"][5].update(question=" "), "the question of row 5 is not text"),
        (lambda whole: whole["data"][5].update(question="\ud800"), "the question of row 5 has half a character"),
        (lambda whole: whole["data"][5].update(image_id="../../etc/passwd"), "leads out of the dataset's folder"),
        (lambda whole: [row.update(image_id="x") for row in whole["data"]], "none of the files is below"),
    ],
)
def test_what_is_wrong_with_textvqa_is_named(tmp_path: Path, change: Callable[[Any], object], match: str) -> None:
    file = folders.textvqa(tmp_path) / "TextVQA_0.5.1_val.json"
    changed(file, change)
    with pytest.raises(AtlasError, match=match):
        textvqa.build(str(tmp_path))


def test_one_picture_that_is_missing_is_bad_media_when_it_is_opened(tmp_path: Path) -> None:
    folders.textvqa(tmp_path)
    file = tmp_path / "train_images" / f"{4:016x}.jpg"
    file.unlink()
    dataset = textvqa.build(str(tmp_path))
    with pytest.raises(BadMedia, match=f"{file.name} is missing"):
        dataset.image(f"train_images/{file.name}")
    assert dataset.digest(f"train_images/{file.name}") == "missing"


# mmlu


def test_mmlu_asks_with_shots_of_the_same_subject(tmp_path: Path) -> None:
    dataset = mmlu.build(str(folders.mmlu(tmp_path)), shots=2)
    found = every(dataset)
    assert len(found) == 2 * COUNT
    example = next(e for e in found if "abstract_algebra test, question 6?" in e.prompt)
    assert example.prompt == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        'abstract_algebra dev, question 0?\nA. 0\nB. two, or more\nC. a "third"\nD. x\ny\nAnswer: A\n\n'
        'abstract_algebra dev, question 1?\nA. 1\nB. two, or more\nC. a "third"\nD. x\ny\nAnswer: B\n\n'
        'abstract_algebra test, question 6?\nA. 6\nB. two, or more\nC. a "third"\nD. x\ny\nAnswer:'
    )
    assert (example.source, example.answer, example.media, example.references) == (TEXT, "C", (), ())
    assert example.mentions == (Mention("abstract_algebra", "C"),)
    assert dataset.concepts["abstract_algebra"].forms == ("abstract_algebra", "abstract algebra")
    assert {name: sum(e.mentions[0].concept == name for e in found) for name in dataset.concepts} == {
        "abstract_algebra": COUNT,
        "virology": COUNT,
    }


def test_both_layouts_of_mmlu_are_the_same_dataset(tmp_path: Path) -> None:
    table, hub = folders.mmlu(tmp_path / "a"), folders.mmlu_parquet(tmp_path / "b")
    one, two = mmlu.build(str(table)), mmlu.build(str(hub))
    assert every(one) == every(two) and one.revision == two.revision
    assert every(mmlu.build(str(table), part="val")) == every(mmlu.build(str(hub), part="val")) != every(one)
    table.rename(tmp_path / "data")
    assert mmlu.build(str(tmp_path)).revision == one.revision, "as the archive unpacks"
    for subject in folders.SUBJECTS:
        shutil.copytree(hub / "all", hub / subject)
    shutil.rmtree(hub / "all")
    assert len(every(mmlu.build(str(hub)))) == 2 * COUNT, "one folder a subject, here with the same questions in both"


def test_shots_are_left_out_of_a_prompt_that_is_too_long(tmp_path: Path) -> None:
    folders.mmlu(tmp_path)
    shortest = [e.prompt for e in every(mmlu.build(str(tmp_path), shots=0))]
    assert all(p.count("Answer:") == 1 for p in shortest)
    assert {p.count("Answer:") for p in (e.prompt for e in every(mmlu.build(str(tmp_path))))} == {6}
    few = [e.prompt for e in every(mmlu.build(str(tmp_path), max_characters=400))]
    assert all(len(p) <= 400 for p in few) and {p.count("Answer:") for p in few} <= {3, 4}
    assert sorted(shortest) == sorted(e.prompt for e in every(mmlu.build(str(tmp_path), max_characters=1)))


def test_a_question_of_two_subjects_is_in_one_split(tmp_path: Path) -> None:
    folders.mmlu(tmp_path)
    for subject in folders.SUBJECTS:
        with (tmp_path / "test" / f"{subject}_test.csv").open("w", newline="") as out:
            csv.writer(out).writerows(
                folders.mmlu_rows("Which  of these" if subject == "virology" else "which of these", 40)
            )
    found = every(mmlu.build(str(tmp_path)))
    assert len(found) == 80
    splits: dict[str, set[str]] = {}
    for e in found:
        splits.setdefault(e.prompt.split(", question ")[-1], set()).add(e.split)
    assert all(len(some) == 1 for some in splits.values())


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (["only"], "row 31 is not a question, four choices and an answer"),
        (["q", "a", "b", "c", "A"], "row 31 is not a question, four choices"),
        (["q", "a", "b", "c", "d", "E"], "row 31 has the answer 'E', which is not A, B, C or D"),
        (["q", "a", "b", "c", "d", "AB"], "row 31 has the answer 'AB'"),
        ([" ", "a", "b", "c", "d", "A"], "row 31, the question is not text"),
        (["x" * 200_000, "a", "b", "c", "d", "A"], "cannot be read as a table after row 30: field larger"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, row: list[str], match: str) -> None:
    folders.mmlu(tmp_path)
    with (tmp_path / "test" / "virology_test.csv").open("a", newline="") as out:
        csv.writer(out).writerow(row)
    with pytest.raises(UsageError, match=match) as caught:
        mmlu.build(str(tmp_path))
    assert "virology_test.csv" in str(caught.value)


def test_too_few_shots_and_damaged_parquet_are_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folders.mmlu(tmp_path / "a")
    with pytest.raises(UsageError, match="dev has 5 questions of abstract_algebra for 6 shots"):
        mmlu.build(str(tmp_path / "a"), shots=6)
    (tmp_path / "a" / "dev" / "virology_dev.csv").unlink()
    with pytest.raises(UsageError, match="dev has 0 questions of virology for 5 shots; use options='shots=0'"):
        mmlu.build(str(tmp_path / "a"))
    with pytest.raises(UsageError, match="shots must be at least 0"):
        mmlu.build(str(tmp_path / "a"), shots=-1)
    file = folders.mmlu_parquet(tmp_path / "b") / "all" / "test-00000-of-00001.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    with pytest.raises(UsageError, match="is not Parquet, or truncated"):
        mmlu.build(str(tmp_path / "b"))
    row = {"question": "q", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 4}
    for wrong, match in (
        ({"answer": 4}, "row 0 has the answer 4"),
        ({"choices": ["a"]}, "row 0 is not a question, four choices"),
        ({"subject": None}, "row 0, the subject is not text"),
    ):
        pq.write_table(pa.Table.from_pylist([row | {"answer": 1} | wrong]), file)
        with pytest.raises(UsageError, match=match):
            mmlu.build(str(tmp_path / "b"))
    pq.write_table(pa.Table.from_pylist([{"question": "q"}]), file)
    with pytest.raises(UsageError, match="has no column subject; it has question"):
        mmlu.build(str(tmp_path / "b"))
    pq.write_table(pa.Table.from_pylist([row]).slice(0, 0), file)
    with pytest.raises(UsageError, match="has no examples; there is nothing to ingest"):
        mmlu.build(str(tmp_path / "b"))


# msvd_qa


def test_msvd_qa_keeps_pointers_to_its_videos(tmp_path: Path) -> None:
    dataset = msvd_qa.build(str(folders.msvd_qa(tmp_path)))
    found = every(dataset)
    assert len(found) == 2 * COUNT
    example = next(e for e in found if e.prompt.startswith("what is it doing 7?"))
    assert example.prompt == "what is it doing 7?\nAnswer in a single word or a short phrase."
    assert (example.source, example.answer) == (VIDEO, "eat")
    assert example.media == ("YouTubeClips/-4wsuPCjDBc_7_17.avi",)
    with pytest.raises(BadMedia, match="is a video, not a picture"):
        dataset.image(example.media[0])
    with pytest.raises(BadMedia, match="is not a recording"):
        dataset.audio(example.media[0])
    frames = dataset.video(example.media[0])
    assert [(f.size, f.mode) for f in frames] == [((32, 24), "RGB")] * 8
    assert len(msvd_qa.build(str(tmp_path), frames=3).video(example.media[0])) == 3
    with pytest.raises(UsageError, match="frames=0: a video needs at least 1"):
        msvd_qa.build(str(tmp_path), frames=0)


def test_msvd_videos_under_other_names(tmp_path: Path) -> None:
    folders.msvd_qa(tmp_path)
    mapping = tmp_path / "youtube_mapping.txt"
    lines = mapping.read_text()
    mapping.unlink()
    with pytest.raises(UsageError, match="none of the files is below .* \\(looked for vid1.avi in video, YouTubeClips"):
        msvd_qa.build(str(tmp_path))
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "vid3.mp4").write_bytes(b"x")
    media_of = {e.media[0] for e in every(msvd_qa.build(str(tmp_path)))}
    assert {"video/vid3.mp4", "video/vid1.avi"} <= media_of
    for text, match in (
        (lines.replace("vid9\n", "vid99\n"), "youtube_mapping.txt has no name for vid9"),
        (lines + "a b c\n", f"line {COUNT + 1} is not 'NAME vidN': a b c"),
        (lines + "another vid3\n", f"line {COUNT + 1} gives vid3 a second name"),
        (lines.replace("_6_16", "_5_15"), "_5_15.avi has two ids and would be in both splits"),
        (lines.replace("-4wsuPCjDBc_5_15", "../../x"), "leads out of the dataset's folder"),
    ):
        mapping.write_text(text)
        with pytest.raises(AtlasError, match=match):
            msvd_qa.build(str(tmp_path))


# librispeech


def test_librispeech_answers_are_lower_case_and_speakers_are_in_one_split(tmp_path: Path) -> None:
    dataset = librispeech.build(str(folders.librispeech(tmp_path)))
    found = every(dataset)
    assert len(found) == 2 * COUNT
    example = next(e for e in found if e.media == ("test-clean/1003/7/1003-7-0001.wav",))
    assert (example.source, example.task, example.answer) == (AUDIO, "transcribe", "he said it's number 3 1")
    assert example.mentions == (Mention("librispeech", "he said it's number 3 1"),)
    splits: dict[str, set[str]] = {}
    for e in found:
        splits.setdefault(e.media[0].split("/")[1], set()).add(e.split)
    assert len(splits) == COUNT and all(len(some) == 1 for some in splits.values())
    samples, rate = dataset.audio(example.media[0])
    assert (samples.shape, rate) == ((43,), 16_000)


def test_librispeech_as_its_archive_unpacks_it(tmp_path: Path) -> None:
    folders.librispeech(tmp_path / "LibriSpeech")
    (tmp_path / "LibriSpeech" / "test-clean").rename(tmp_path / "LibriSpeech" / "dev-other")
    assert every(librispeech.build(str(tmp_path), part="dev-other"))[0].media[0].startswith("LibriSpeech/dev-other/")
    with pytest.raises(UsageError, match="has no folder test-clean; expected: test-clean/SPEAKER/CHAPTER"):
        librispeech.build(str(tmp_path))
    with pytest.raises(BadMedia, match="leads out"):
        librispeech.build(str(tmp_path), part="../other")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text + "1000-7-0000 AGAIN\n", "line 3 is a second transcript of 1000-7-0000"),
        (lambda text: text + "1001-7-0009 OTHER\n", "line 3 does not begin with an id such as 1000-7-0000"),
        (lambda text: text + "\n1000-7-0002 AFTER A GAP\n", "line 3 does not begin with an id"),
        (lambda text: text + "1000-7-0002\n", "line 3, the words is not text"),
        (lambda text: text.splitlines()[0], "is truncated: it has no line for 1000-7-0001.wav"),
    ],
)
def test_what_is_wrong_with_a_transcript_is_named(tmp_path: Path, change: Callable[[str], str], match: str) -> None:
    file = folders.librispeech(tmp_path) / "test-clean" / "1000" / "7" / "1000-7.trans.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(UsageError, match=match) as caught:
        librispeech.build(str(tmp_path))
    assert str(file) in str(caught.value)


def test_librispeech_without_recordings_or_with_a_link(tmp_path: Path) -> None:
    folders.librispeech(tmp_path / "a")
    for file in sorted((tmp_path / "a").rglob("*.wav")):
        file.unlink()
    with pytest.raises(UsageError, match="none of the recordings is below"):
        librispeech.build(str(tmp_path / "a"))
    folders.librispeech(tmp_path / "b")
    speaker = tmp_path / "b" / "test-clean" / "1000"
    speaker.rename(tmp_path / "1000")
    speaker.symlink_to(tmp_path / "1000")
    with pytest.raises(BadMedia, match="is a link out of the dataset's folder"):
        librispeech.build(str(tmp_path / "b"))


# vocalsound


def test_vocalsound_is_read_from_its_file_names(tmp_path: Path) -> None:
    folders.vocalsound(tmp_path)
    for part in ("datafiles", "meta"):
        shutil.rmtree(tmp_path / part)
    dataset = vocalsound.build(str(tmp_path))
    assert list(dataset.concepts) == ["laughter", "sigh", "cough", "throat clearing", "sneeze", "sniff"]
    found = every(dataset)
    assert len(found) == 6 * COUNT
    [example] = [e for e in found if e.media == ("audio_16k/f0004_0_throatclearing.wav",)]
    assert (example.source, example.answer) == (AUDIO, "throat clearing")
    assert example.mentions == (Mention("throat clearing", "throat clearing"),)
    assert all(name in example.prompt for name in dataset.concepts)
    assert len(every(dataset, FIND, per_concept=2)) == 12
    speakers = {e.media[0][:15]: e.split for e in found}
    assert len(speakers) == COUNT and all(e.split == speakers[e.media[0][:15]] for e in found)
    (tmp_path / "audio_16k").rename(tmp_path / "audio_44k")
    assert every(vocalsound.build(str(tmp_path)))[0].media[0].startswith("audio_44k/")


def test_the_parts_of_vocalsound_are_listed_by_recording_or_by_speaker(tmp_path: Path) -> None:
    folders.vocalsound(tmp_path)
    assert len(every(vocalsound.build(str(tmp_path), part="test"))) == 60
    assert {e.media[0][10:15] for e in every(vocalsound.build(str(tmp_path), part="val"))} == {"f0011", "f0012"}
    with pytest.raises(UsageError, match="does not say which part a recording is of: no tr.json or tr_meta.csv"):
        vocalsound.build(str(tmp_path), part="train")
    folders.write_json(tmp_path / "datafiles" / "te.json", {"data": [{"wav": "/x/f9999_0_cough.wav"}]})
    with pytest.raises(UsageError, match="te.json lists none of the recordings"):
        vocalsound.build(str(tmp_path), part="test")
    (tmp_path / "datafiles" / "te.json").write_text('{"data": [{"wav"')
    with pytest.raises(UsageError, match="te.json is not JSON, or truncated"):
        vocalsound.build(str(tmp_path), part="test")


@pytest.mark.parametrize("name", ["f0001_0_yawn.wav", "noise.wav", "f0001_cough.wav", "f0001_0_cough_2.wav"])
def test_a_recording_without_a_label_is_named(tmp_path: Path, name: str) -> None:
    folders.sound(folders.vocalsound(tmp_path) / "audio_16k" / name)
    with pytest.raises(UsageError, match=f"audio_16k/{name} is not named SPEAKER_N_LABEL.wav"):
        vocalsound.build(str(tmp_path))


# coco_captions


def test_karpathys_split_with_all_its_captions(tmp_path: Path) -> None:
    dataset = coco_captions.build(str(folders.coco_captions(tmp_path)))
    found = every(dataset)
    assert len(found) == COUNT
    [example] = [e for e in found if e.media == (f"val2014/COCO_val2014_{7:012}.jpg",)]
    assert example.references == tuple(f"Thing 7, seen by person {k}." for k in range(5))
    assert example.answer == example.references[0]
    assert example.prompt == "Describe the picture in one short sentence."
    held = {e.media[0] for e in found if e.split == HELD_OUT}
    assert held == {f"val2014/COCO_val2014_{n:012}.jpg" for n in (0, 6, 28, 29)}, "where coco holds them out"
    (tmp_path / "images").mkdir()
    (tmp_path / "val2014").rename(tmp_path / "images" / "val2014")
    (tmp_path / "dataset_coco.json").rename(tmp_path / "images" / "x.json")
    (tmp_path / "karpathy").mkdir()
    (tmp_path / "images" / "x.json").rename(tmp_path / "karpathy" / "dataset_coco.json")
    assert every(coco_captions.build(str(tmp_path)))[0].media[0].startswith("images/val2014/")


def test_the_captions_in_the_prompt_are_of_other_pictures(tmp_path: Path) -> None:
    file = folders.coco_captions(tmp_path) / "dataset_coco.json"
    dataset = coco_captions.build(str(tmp_path), shots=4)
    [prompt] = {e.prompt for e in every(dataset)}
    shown = [line.removeprefix("- ") for line in prompt.splitlines()[1:]]
    assert len(shown) == 4 and prompt.startswith("Describe the picture in one short sentence. Such sentences are:\n- ")
    assert all(int(caption.split()[1].strip(",")) >= COUNT for caption in shown), "of the train part"
    assert len(every(dataset)) == COUNT
    changed(file, lambda whole: whole.update(images=whole["images"][:COUNT]))
    alone = coco_captions.build(str(tmp_path), shots=4)
    found = every(alone)
    assert len(found) == COUNT - 4
    assert not {e.answer for e in found} & {line.removeprefix("- ") for line in found[0].prompt.splitlines()}
    with pytest.raises(UsageError, match="has no pictures of the part test besides those for the prompt"):
        coco_captions.build(str(tmp_path), shots=COUNT)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda rows: rows[5].update(cocoid=4), "row 5 has the cocoid 4 a second time"),
        (lambda rows: rows[5].update(split="valid"), "row 5 has the split 'valid'; there are test, val"),
        (lambda rows: rows[5].update(sentences=[]), "row 5 has no sentences"),
        (lambda rows: rows[5].update(sentences=[{"tokens": []}]), "row 5, a sentence is not text: null"),
        (lambda rows: rows[5].update(filepath="../secret"), "leads out of the dataset's folder"),
        (lambda rows: rows[5].update(filename=rows[4]["filename"]), None),
        (lambda rows: rows[6].update(filename=rows[4]["filename"]), "has two ids and would be in both splits"),
    ],
)
def test_what_is_wrong_with_karpathys_file_is_named(
    tmp_path: Path, change: Callable[[Any], object], match: str | None
) -> None:
    file = folders.coco_captions(tmp_path) / "dataset_coco.json"
    changed(file, lambda whole: change(whole["images"]))
    if match is None:  # two sets of captions of one picture, on one side
        assert len(every(coco_captions.build(str(tmp_path)))) == COUNT
        return
    with pytest.raises(AtlasError, match=match):
        coco_captions.build(str(tmp_path))


# Recordings


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_wav_of_every_width_is_read_to_the_bit(tmp_path: Path, width: int, channels: int) -> None:
    wanted = np.linspace(-1, 0.9, 50 * channels, dtype=np.float64)
    scale = 2 ** (8 * width - 1)
    whole = np.round(wanted * scale).astype(np.int64) + (128 if width == 1 else 0)
    data = b"".join(int(n).to_bytes(width, "little", signed=width > 1) for n in whole)
    with wave.open(str(tmp_path / "x.wav"), "wb") as out:
        out.setparams((channels, width, 8000, 0, "NONE", ""))
        out.writeframes(data)
    samples, rate = media.open_audio(tmp_path / "x.wav")
    assert (rate, samples.dtype, samples.shape) == (8000, np.float32, (50,))
    exact = ((whole - (128 if width == 1 else 0)) / scale).reshape(-1, channels).mean(1)
    np.testing.assert_allclose(samples, exact, atol=1e-6)


def header(file: Path, at: int, value: bytes) -> None:
    data = bytearray(file.read_bytes())
    data[at : at + len(value)] = value
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda f: f.unlink(), "is missing; the dataset's recordings must be below its folder"),
        (lambda f: f.write_bytes(b""), "is not a recording, or is corrupt or truncated"),
        (
            lambda f: f.write_bytes(b"hello" * 20),
            "is not a recording, or is corrupt or truncated: .*Format not recognised",
        ),
        (lambda f: f.write_bytes(f.read_bytes()[:30]), "is not a PCM recording, or corrupt"),
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "is truncated: it has 56 of 160 bytes of sound"),
        (lambda f: folders.sound(f, 0), "is an empty recording"),
        (lambda f: header(f, 20, b"\x03\x00"), "is not a recording, or is corrupt or truncated"),
        (lambda f: header(f, 22, b"\x00\x00"), "is not a PCM recording, or corrupt: bad # of channels"),
        (lambda f: header(f, 24, b"\x00\x00\x00\x00"), "is corrupt: its header says 1 channels of 0 samples a second"),
        (lambda f: header(f, 24, b"\x01\x00\x00\x00"), "is corrupt: its header says 1 channels of 1 samples a second"),
        (lambda f: header(f, 40, b"\x80\x7d\x00\x00"), "seconds long, the limit is 1|is cut"),
        (lambda f: header(f, 34, b"\x40\x00"), "has samples of 64 bits"),
        (lambda f: header(f, 40, b"\xfe\xff\xff\xff"), "seconds long, the limit is 1"),
    ],
)
def test_a_bad_recording_is_named_with_its_path(tmp_path: Path, damage: Callable[[Path], object], match: str) -> None:
    file = tmp_path / "x.wav"
    folders.sound(file)
    assert media.open_audio(file, 1.0)[0].shape == (80,)
    damage(file)
    with pytest.raises(BadMedia, match=match) as caught:
        media.open_audio(file, 1.0)
    assert str(file) in str(caught.value)


def test_the_limits_of_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.sound(tmp_path / "x.wav", 800)
    with pytest.raises(BadMedia, match="bytes, the limit is 100"):
        media.open_audio(tmp_path / "x.wav", max_bytes=100)
    monkeypatch.setattr(media, "MAX_SAMPLES", 700)
    with pytest.raises(BadMedia, match="has 800 samples, the limit is 700"):
        media.open_audio(tmp_path / "x.wav")
    with pytest.raises(BadMedia, match="is missing"):
        media.open_audio(tmp_path / ("x" * 300 + ".wav"))


def test_flac_without_soundfile_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "x.flac").write_bytes(b"fLaC")
    with pytest.raises(Unsupported, match=r"reading x.flac needs soundfile: pip install 'neuron-atlas\[audio\]'"):
        media.open_audio(tmp_path / "x.flac")


def test_real_flac_is_read(tmp_path: Path, shared_data: Path) -> None:
    pytest.importorskip("soundfile")
    file = sorted((shared_data / "esc10_mini").glob("*.flac"))[0]
    samples, rate = media.open_audio(file)
    assert (samples.dtype, samples.shape, rate) == (np.float32, (80_225,), 16_000)
    assert 0.01 < np.abs(samples).max() <= 1
    with pytest.raises(BadMedia, match="is 5 seconds long, the limit is 4"):
        media.open_audio(file, 4)
    for size in (0, 3, 100, file.stat().st_size // 2):
        (tmp_path / "cut.flac").write_bytes(file.read_bytes()[:size])
        with pytest.raises(BadMedia, match="cut"):
            media.open_audio(tmp_path / "cut.flac")


# Models


@pytest.mark.parametrize(("name", "source"), [("vocalsound", "audio"), ("msvd_qa", "video")])
def test_a_model_is_not_asked_with_what_it_cannot_be_given(
    empty_atlas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, source: str
) -> None:
    path = folders.WRITERS[name](tmp_path / name)
    code = main(["ingest", "--atlas", str(empty_atlas), "--dataset", f"{name}:{path}", "--per-concept", "2"])
    printed = capsys.readouterr()
    wanted = (
        f"atlas: tiny-llava takes image and text, and {name} gives {source}; "
        "choose another model, another dataset or other --sources"
    )
    assert (code, printed.out) == (5, "")
    assert printed.err.splitlines()[-1] == wanted


@pytest.fixture(scope="module")
def quiz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TextVQA folder of the embedded world's pictures, with questions that its model can answer."""
    root, world, rows = tmp_path_factory.mktemp("quiz"), scenes.build(), []
    (root / "images").mkdir()
    for split in (FIND, HELD_OUT):
        for e in world.examples(source=IMAGE, split=split, concepts=world.drawn, tasks=["does"], per_concept=2, seed=0):
            image = e.media[0].replace("/", "-")
            world.image(e.media[0]).save(root / "images" / f"{image}.jpg", quality=100, subsampling=0)
            row = {"question": e.prompt, "image_id": image, "answers": [e.answer] * 9 + ["nothing"]}
            rows.append(row | {"question_id": len(rows)})
    folders.write_json(root / "TextVQA_0.5.1_val.json", {"data": rows})
    return root


def test_a_model_answers_the_questions_of_a_folder(quiz: Path) -> None:
    from ingest.job import Execution, make_job
    from ingest.run.encode_examples import ExampleEncoder
    from ingest.run.prepare import collect, load_model
    from ingest.run.resolve import complete

    job = make_job({"model": "tiny-llava", "dataset": f"textvqa:{quiz}", "per_concept": 12, "split": HELD_OUT})
    dataset = textvqa.build(str(quiz))
    job = complete(job, dataset, EYES)
    examples = collect(job, dataset)
    live = load_model(job, Execution())
    feed = ExampleEncoder(live, dataset, job)
    items = feed.items(list(enumerate(examples)), 4)
    assert len(items) == len(examples) > 5
    assert feed.skipped.plain() == {"unmentioned": {}, "unplaced": {}, "media": {}}
    for item in items:
        assert {t.concept for t in item.targets} == {"textvqa"}
        assert [t.index for t in item.targets] == list(range(len(item.prompt.answer))), "every token of the answer"
        assert sum(t.weight for t in item.targets) == pytest.approx(1)
    said = live.generate([item.prompt.answered(()) for item in items], max_new_tokens=4)
    right = [
        live.encoder.decode(ids).strip() == examples[item.number].answer for item, ids in zip(items, said, strict=True)
    ]
    assert sum(right) >= 0.8 * len(right)


def test_a_folder_goes_through_a_whole_job(quiz: Path, empty_atlas: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--atlas", str(empty_atlas)]
    job = ["ingest", "--model", "tiny-llava", "--dataset", f"textvqa:{quiz}", "--per-concept", "6", "--reduce", "mean"]
    assert main([*job, *place]) == 0
    assert main(["query", "--concept", "textvqa", "--top", "5", "--format", "jsonl", *place]) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines() if row.startswith("{")]
    assert len(rows) == 5 and rows[0]["score"] > 0
