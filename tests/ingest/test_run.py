"""Jobs from beginning to end: identity, resuming after an interrupt and a kill, two at once, nothing to find."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import task_folders
from older_atlas import older_decodings

from atlas import Atlas
from atlas.errors import AtlasError, AtlasWarning, StoreUnavailable, UsageError
from atlas.maintain.check import check
from atlas.maintain.rebuild import rebuild
from atlas.query.decoded import NOT_Z
from atlas.store import engine, ledger
from atlas.store.atomic import sha256
from atlas.store.database import database_file, open_readonly
from cli.main import main
from ingest.data.examples import Example
from ingest.job import Execution, Job, make_job, open_dataset
from ingest.run.encode_examples import ExampleEncoder
from ingest.run.ingest import ingest
from ingest.run.map_step import encoded, portions, stretches
from ingest.run.phases import Phases
from ingest.run.prepare import collect, load_model, tell_missing_media
from ingest.run.record import folder_lock
from ingest.run.resolve import complete, resolved, run_id
from ingest.run.session import prepare_job

EYES = frozenset({"image", "text"})

LAUNCH = """
import json, sys
from pathlib import Path
from ingest.job import Execution, make_job
from ingest.run.prepare import collect
from ingest.run.ingest import ingest
ingest(Path(sys.argv[1]), make_job(json.loads(sys.argv[2])), Execution(batch_size=2))
"""


def scores(atlas: Path) -> pa.Table:
    with engine.connect_readonly(atlas) as connection:
        sql = """
        SELECT c.name AS concept, m.method, m.source, m.reduce, s.layer, s.neuron, s.score, s.rank
        FROM scores s JOIN maps m USING (map_id) LEFT JOIN concepts c USING (concept_id) ORDER BY ALL"""
        return engine.raw(connection).sql(sql).to_arrow_table()


def test_a_finished_job_is_not_run_again(own_atlas: Path, small_job: Job) -> None:
    before = scores(own_atlas)
    again = ingest(own_atlas, small_job, Execution(batch_size=3))  # another batch size is the same job
    assert not again.fresh
    assert scores(own_atlas).equals(before)
    other = ingest(own_atlas, replace(small_job, seed=1), Execution())
    assert other.fresh and other.run_id != again.run_id
    assert check(own_atlas) == []


def test_the_run_id_is_of_content_and_not_of_names(small_job: Job) -> None:
    dataset = open_dataset(small_job)
    job = complete(small_job, dataset, EYES)
    examples = collect(job, dataset)
    ids = {
        run_id(resolved(j, dataset, examples, {"fingerprint": print_}))
        for j, print_ in [
            (job, "a"),
            (replace(job, model="elsewhere"), "a"),  # the same weights under another name
            (job, "b"),
            (replace(job, tap="gate"), "a"),
            (replace(job, methods={"contribution": {"norm": True}}), "a"),
        ]
    }
    assert len(ids) == 4


def test_all_concepts_are_said_as_no_names_are() -> None:
    assert make_job({"methods": {"random": {}}, "concepts": ["all"]}).concepts == ()
    assert make_job({"methods": {"random": {}}, "concepts": ["dog", "all"]}).concepts == ("dog", "all")


def test_two_runs_of_one_method_are_told_apart(own_atlas: Path, small_job: Job) -> None:
    """The newest map answers, and says that there are others; each run's own map answers where it is named."""
    atlas = Atlas.open(own_atlas)
    old = atlas.query("dog", "contribution", source="text", top=20)
    done = ingest(own_atlas, replace(small_job, methods={"contribution": {"norm": True}}), Execution())
    new = atlas.query("dog", "contribution", source="text", top=20)
    assert new.provenance["maps"][0]["run_id"] == done.run_id
    assert any(a.startswith(f"run={done.run_id[:8]} (the newest of 2") for a in new.provenance["assumed"])
    assert new.to_arrow()["score"] != old.to_arrow()["score"]
    first = old.provenance["maps"][0]["run_id"]
    named = atlas.query("dog", "contribution", source="text", run=first[:8], top=20)
    assert named.to_arrow()["score"] == old.to_arrow()["score"]


def test_every_score_has_its_rank_and_every_map_its_statistics(stored_atlas: Path) -> None:
    with engine.connect_readonly(stored_atlas) as connection:
        rows = engine.raw(connection).sql(
            """SELECT m.neurons, count(*) AS n, max(s.rank) AS last, count(DISTINCT s.rank) AS ranks,
                      abs(avg(s.score) - m.mean) AS gap
               FROM maps m JOIN scores s USING (map_id) GROUP BY m.map_id, m.neurons, m.mean"""
        )
        found = rows.fetchall()
    # two sources, and two reductions of two concepts by four methods, one of them by random, four maps of activation
    assert len(found) == 2 * (2 * 2 * 4 + 2 + 4)
    for neurons, n, last, ranks, gap in found:
        assert neurons == n == last == ranks == 128
        assert gap < 1e-6


def test_an_interrupted_run_goes_on_and_gives_the_same_scores(
    empty_atlas: Path, stored_atlas: Path, small_job: Job
) -> None:
    seen: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        if done > 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(empty_atlas, small_job, Execution(), interrupt)
    kept = sorted(empty_atlas.glob("runs/*/shards/*.safetensors"))
    assert len(kept) == 1
    with engine.connect_readonly(empty_atlas) as connection:
        assert ledger.status(connection, kept[0].parents[1].name) == ledger.INTERRUPTED
    assert Atlas.open(empty_atlas).runs()["status"].to_pylist() == ["interrupted"]
    stamp = kept[0].stat().st_mtime_ns
    calls: list[int] = []

    def watch(done: int, total: int) -> None:
        calls.append(done)
        assert not kept[0].exists() or kept[0].stat().st_mtime_ns == stamp  # the first portion is not done again

    ingest(empty_atlas, small_job, Execution(), watch)
    assert calls[0] == 64
    assert scores(empty_atlas).equals(scores(stored_atlas))
    assert check(empty_atlas) == []
    assert not list(empty_atlas.glob("runs/*/shards"))


def test_a_killed_run_goes_on_and_gives_the_same_scores(empty_atlas: Path, stored_atlas: Path, small_job: Job) -> None:
    content = json.dumps({k: getattr(small_job, k) for k in ("model", "methods", "concepts", "per_concept")})
    process = subprocess.Popen([sys.executable, "-c", LAUNCH, str(empty_atlas), content], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not list(empty_atlas.glob("runs/*/shards/00000.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(empty_atlas.glob("runs/*/manifest.json"))
    ingest(empty_atlas, small_job, Execution())
    first, second = scores(empty_atlas), scores(stored_atlas)
    assert first.drop_columns(["score", "rank"]).equals(second.drop_columns(["score", "rank"]))
    gap = pc.max(pc.abs(pc.subtract(first["score"], second["score"]))).as_py()
    assert gap < 1e-5  # the killed process had another batch size
    assert check(empty_atlas) == []


def test_a_damaged_portion_is_done_again(empty_atlas: Path, stored_atlas: Path, small_job: Job) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(empty_atlas, small_job, Execution(), interrupt)
    (shard,) = empty_atlas.glob("runs/*/shards/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:1000])
    ingest(empty_atlas, small_job, Execution())
    assert scores(empty_atlas).equals(scores(stored_atlas))


def test_two_processes_with_the_same_job(empty_atlas: Path, small_job: Job, stored_atlas: Path) -> None:
    (folder,) = (stored_atlas / "runs").iterdir()
    with (
        folder_lock(empty_atlas / "runs" / folder.name),
        pytest.raises(StoreUnavailable, match="another process is running the same job"),
    ):
        ingest(empty_atlas, small_job, Execution())


def test_responses_are_made_once_and_decodings_too(own_atlas: Path, small_job: Job) -> None:
    def count(table: str) -> int:
        with engine.connect_readonly(own_atlas) as connection:
            return int(engine.raw(connection).execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    had = count("decodings")
    assert had == 128 * 2 * 2  # neurons, by z and plainly, top and bottom
    ingest(own_atlas, replace(small_job, methods={"contribution": {"norm": True}}), Execution())
    assert count("decodings") == had


def test_an_atlas_of_before_z_uses_plain_tokens_and_says_so_until_the_next_run(own_atlas: Path, small_job: Job) -> None:
    def answers() -> list[Any]:
        opened = Atlas(own_atlas)
        concept = opened.query("dog", "contribution", source="text", top=3)
        word = concept.table["tokens"][0].as_py()[0].strip()
        questions = [concept, opened.query("dog", "contribution", source="text", token=word), opened.search(word)]
        questions.append(opened.count("dog", "contribution", source="text", token=word))
        return [*questions, opened.shared("dog", "contribution", top=5), opened.neuron("1/3")]

    def notes() -> set[bool]:
        return {NOT_Z in answer.provenance["assumed"] for answer in answers()}

    assert notes() == {False}
    by_z = answers()[0].table["tokens"].to_pylist()
    (folder,) = (own_atlas / "runs").iterdir()
    _written_before_0007(folder)
    database_file(own_atlas).unlink()
    rebuild(own_atlas)
    assert check(own_atlas) == []
    assert notes() == {True}
    plain = answers()[0].table["tokens"].to_pylist()
    with open_readonly(own_atlas) as connection:
        rows = connection.execute("SELECT tokens[1:5] FROM decodings WHERE projection = 'plain' AND side = 'top'")
        stored = [row[0] for row in rows.fetchall()]
    assert plain != by_z and all(tokens in stored for tokens in plain)
    done = ingest(own_atlas, replace(small_job, methods={"contribution": {"norm": True}}), Execution())
    assert set(done.outcome["decoding"]["long_row_tokens"]) == {"z", "plain"}
    assert done.outcome["phases"]["decoding"] > 0
    assert check(own_atlas) == []
    assert notes() == {False} and answers()[0].table["tokens"].to_pylist() == by_z


def _written_before_0007(folder: Path) -> None:
    """Make the folder's decoded tokens what the program of schema 0006 wrote."""
    file = folder / "decodings.parquet"
    table = older_decodings(pq.read_table(file))
    pq.write_table(table, file)
    manifest = json.loads((folder / "manifest.json").read_text())
    about = {"rows": table.num_rows, "bytes": file.stat().st_size, "sha256": sha256(file)}
    manifest |= {"schema": "0006", "files": {**manifest["files"], file.name: about}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("number", [1, 63, 64, 65, 1000, 5000])
def test_portions_cover_every_example_once_in_at_most_sixteen(number: int) -> None:
    for target, least in (("text", 64), ("image", 8)):
        examples = [(n, Example("text", "does", "find", "a", "dog", (), target=target)) for n in range(number)]
        cut = portions(examples)
        assert [e for portion in cut for e in portion] == examples
        assert len(cut) <= 16 and (len(cut) == 1 or all(len(p) >= least for p in cut[:-1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"methods": {"contribtion": {}}}, "no method called 'contribtion'; did you mean 'contribution'"),
        ({"methods": {}}, "names no method"),
        ({"methods": {"contribution": {"nrom": True}}}, "no parameter of contribution called 'nrom'.*'norm'"),
        ({"methods": {"contribution": {"norm": "maybe"}}}, "norm='maybe' is not a bool"),
        ({"per_concept": 0}, "per_concept"),
        ({"per_concept": "many"}, "per_concept of the job must be a whole number, not 'many'"),
        ({"tap": "gat"}, "no tap called 'gat'"),
        ({"reduce": ("median",)}, "no reduction called 'median'"),
        ({"split": "test"}, "no split called 'test'"),
    ],
)
def test_a_wrong_job_says_what_is_wrong(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_job(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dataset": "sceens"}, "no dataset called 'sceens'; did you mean 'scenes'"),
        ({"concepts": ("dgo",)}, "no concept called 'dgo'; did you mean 'dog'"),
        ({"sources": ("touch",)}, "no source called 'touch'"),
        ({"options": {"sed": 1}}, "no parameter of scenes called 'sed'"),
    ],
)
def test_a_job_names_what_its_dataset_does_not_have(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_dataset(make_job(content))


UNJUDGED = pytest.mark.filterwarnings("ignore:no held-out examples:atlas.errors.AtlasWarning")


def test_a_concept_that_is_not_held_out_is_told_once(
    empty_atlas: Path, llava_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fact "a" is sought by, "6" is held out, whatever they say."""
    rows = [
        {"prompt": "what does a dog do ?", "answer": "barks", "concepts": "dog", "fact": "a"},
        {"prompt": "what does a cat do ?", "answer": "meows", "concepts": "cat", "fact": "a"},
        {"prompt": "what can a cat do ?", "answer": "meows", "concepts": "cat", "fact": "6"},
    ]
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    given = ("--model", str(llava_folder), "--dataset", f"prompts:{file}", "--atlas", str(empty_atlas))
    assert main(["ingest", *given, "--no-progress"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "held-out" in line]
    assert len(said) == 1 and "no held-out examples of dog (text): what is found for them cannot be judged" in said[0]
    assert main(["ingest", *given, "--no-progress", "--concepts", "cat"]) == 0
    assert "held-out" not in capsys.readouterr().err


@UNJUDGED
def test_a_job_without_a_usable_example_says_why(empty_atlas: Path, llava_folder: Path) -> None:
    """The random model's own captions never mention a concept: nothing is stored, and the ledger says so."""
    folder = empty_atlas.parent / "coco"
    _one_picture_coco(folder)
    job = make_job(
        {"model": str(llava_folder), "dataset": f"coco:{folder}", "sources": ("image",), "concepts": ("dog",)}
    )
    with pytest.raises(AtlasError, match="no answer mentions the words of dog"):
        ingest(empty_atlas, job, Execution())
    assert check(empty_atlas) == []
    assert Atlas.open(empty_atlas).runs()["status"].to_pylist() == ["failed"]
    (folder / "images" / "1.jpg").write_bytes(b"no picture")
    with pytest.raises(AtlasError, match=r"no example could be used: 1 media failed.*1\.jpg"):
        ingest(empty_atlas, job, Execution())
    with pytest.raises(AtlasError, match=r"1\.jpg"):
        ingest(empty_atlas, replace(job, per_concept=3), Execution(bad_media="fail"))


@UNJUDGED
def test_media_that_are_not_there_are_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    """Pictures behind links that lead out of the folder are not read, which is said at once."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "pictures"
    (folder / "dog").mkdir(parents=True)
    for n in range(8):
        task_folders.picture(elsewhere / f"{n}.png", n)
        (folder / "dog" / f"{n}.png").symlink_to(elsewhere / f"{n}.png")
    content = {"model": "tiny-llava", "dataset": f"folder:{folder}", "concepts": ("dog",), "split": "all"}
    job = complete(make_job(content), dataset := open_dataset(make_job(content)), EYES)
    with pytest.raises(
        UsageError, match=r"8 media are missing, the first: dog/\d\.png: .* is a link out of the dataset"
    ):
        tell_missing_media(dataset, collect(job, dataset))
    for name in ("1.png", "2.png"):
        (folder / "dog" / name).unlink()
        task_folders.picture(folder / "dog" / name, 1)
    with pytest.warns(AtlasWarning, match=r"6 of 8 media are missing, and their examples will be skipped; the first"):
        prepare_job(job, Execution())


def _one_picture_coco(folder: Path) -> None:
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 20, "height": 20} for i in range(1, 9)]
    for image in images:
        Image.new("RGB", (20, 20), "red").save(folder / "images" / str(image["file_name"]))
    box = {
        "bbox": [0, 0, 9, 9],
        "area": 81,
        "iscrowd": 0,
        "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]],
        "category_id": 18,
    }
    annotations = [{"id": i, "image_id": i, **box} for i in range(1, 9)][:1]
    instances = {
        "images": images[:1],
        "annotations": annotations,
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
    }
    (folder / "annotations" / "instances.json").write_text(json.dumps(instances))
    captions = {"images": images[:1], "annotations": [{"id": 1, "image_id": 1, "caption": "A dog ."}]}
    (folder / "annotations" / "captions.json").write_text(json.dumps(captions))


@UNJUDGED
def test_real_photographs_go_through_the_whole_job(empty_atlas: Path, shared_data: Path) -> None:
    """The embedded model captions them badly, but every part of the job is real."""
    job = make_job(
        {
            "dataset": f"coco:{shared_data / 'coco_mini'}",
            "concepts": ("bird", "bus", "car", "dog", "person"),
            "methods": {"contribution": {}, "activation": {"positions": "image", "pool": "max"}},
            "per_concept": 6,
        }
    )
    done = ingest(empty_atlas, job, Execution())
    assert done.outcome["skipped"]["media"] == {}
    found = Atlas.open(empty_atlas).query("person", "contribution", source="text", top=5)
    assert len(found) == 5 and found.provenance["maps"][0]["dataset"] == "coco"
    with open_readonly(empty_atlas) as connection:
        answers = connection.execute("SELECT count(*) FROM responses").fetchall()[0][0]
        pictures = connection.execute("SELECT count(*) FROM examples WHERE source = 'image'").fetchall()[0][0]
    assert answers == pictures > 10  # one answer of the model a picture
    assert check(empty_atlas) == []
    again = ingest(empty_atlas, replace(job, methods={"random": {"seed": 0}}), Execution())
    with open_readonly(empty_atlas) as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchall()[0][0] == answers
    assert again.fresh and check(empty_atlas) == []


def test_parts_are_encoded_ahead_in_order_and_a_bad_one_fails_in_its_turn() -> None:
    class Slow:
        """Stands in for a feed: what it encodes, and by which thread."""

        def __init__(self) -> None:
            self.by: list[tuple[int, bool]] = []

        def items(self, some: Any, _size: int) -> list[Any]:
            if any(example.prompt == "bad" for _, example in some):
                raise UsageError("a bad picture")
            self.by.append((some[0][0], threading.current_thread() is threading.main_thread()))
            return []

    def example(n: int, **more: Any) -> tuple[int, Example]:
        return n, Example(
            **{"source": "text", "task": "does", "split": "find", "prompt": "a", "answer": "dog"} | more, mentions=()
        )

    job = make_job({"methods": {"random": {}}, "sources": ["text", "image"]})
    mixed = [example(n, source="image" if n % 2 else "text") for n in range(23)]
    mixed.append(example(23, source="image", prompt="what", answer=None))
    cut = stretches(mixed, job, 2)
    assert [n for _, some in cut for n, _ in some] == [*range(0, 24, 2), *range(1, 24, 2)]
    assert [len(some) for _, some in cut] == [2, 8, 2, 8, 4]
    feed: Any = Slow()
    feed.twins, feed.stopped = None, False
    assert [(side, list(some)) for side, some, _ in encoded(feed, cut, 2, Phases())] == [
        (side, list(some)) for side, some in cut
    ]
    # The first has nothing to go beside, and the last waits for an answer of the model.
    assert feed.by == [(0, True), (4, False), (20, False), (1, False), (17, True)]
    begun = encoded(feed, stretches([example(0), example(1), example(2, prompt="bad")], job, 2), 2, Phases())
    assert next(begun) and not feed.stopped
    with pytest.raises(UsageError, match="a bad picture"):
        next(begun)
    feed.by, feed.twins = [], object()  # another model paints over pictures: all in turn
    assert len(list(encoded(feed, cut, 2, Phases()))) == 5 and all(main for _, main in feed.by)


def test_examples_of_words_are_in_order_of_their_length_and_others_keep_theirs() -> None:
    def example(n: int, prompt: str, *media: str) -> tuple[int, Example]:
        return n, Example("text", "does", "find", prompt, "a dog", (), media=media)

    words = [example(n, "x" * length) for n, length in enumerate([9, 1, 5, 5, 3])]
    shown = [example(n, "x" * length, "a.png") for n, length in enumerate([9, 1, 5])]
    job = make_job({"methods": {"random": {}}, "sources": ["text"]})
    for portion, order in ((words, [1, 4, 2, 3, 0]), (shown, [0, 1, 2])):
        assert [n for _, stretch in stretches(portion, job, 2) for n, _ in stretch] == order


def test_what_is_encoded_ahead_is_given_up_when_the_model_fails(small_job: Job) -> None:
    class Slow(ExampleEncoder):
        def prompt(self, example: Example) -> Any:
            found = super().prompt(example)
            if threading.current_thread() is not threading.main_thread():
                time.sleep(0.2)
            return found

    dataset = open_dataset(small_job)
    job = complete(small_job, dataset, EYES)
    feed = Slow(load_model(job, Execution()), dataset, job)
    cut = stretches(list(enumerate(collect(job, dataset)))[:60], job, 4)
    running = encoded(feed, cut, 4, Phases())
    assert next(running)
    started = time.monotonic()
    running.close()  # as an exception of the model, or Ctrl-C, does
    assert feed.stopped and time.monotonic() - started < 2  # and not 16 times 0.2 s
