"""What a neuron's values are looked at on: files and prompts, or the atlas's stored examples with their media."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from atlas.errors import AtlasError, UsageError
from atlas.live.media import Clip, Medium, Sound
from atlas.neurons import Neuron
from atlas.query.statements import Query
from atlas.store.database import open_readonly
from ingest.data.examples import AUDIO, IMAGE, TEXT, VIDEO, Dataset
from ingest.job import DataSpec, open_dataset
from ingest.run.generate import dataset_of, open_media

QUESTION = "what is this?"
"""What is asked of a medium that comes without a prompt."""

FIRST = (IMAGE, VIDEO, AUDIO, TEXT)
"""The order in which examples of several sources are shown."""

EXEMPLARS = """
SELECT x.source, x.rank, x.value, x.token, x.position, x.run_id, r.job, r.finished_at, e.*, d.name AS dataset,
       d.path, d.revision
FROM exemplars x JOIN runs r USING (run_id)
JOIN examples e ON e.example_id = x.example_id AND e.dataset_id = r.dataset_id
JOIN datasets d ON d.dataset_id = r.dataset_id
WHERE r.model_id = $model_id AND x.component = $component AND x.layer = $layer AND x.neuron = $neuron
QUALIFY dense_rank() OVER (PARTITION BY x.source ORDER BY r.finished_at DESC, r.run_id) = 1
ORDER BY x.rank"""

EXAMPLE = """
SELECT e.*, r.run_id, r.job, d.name AS dataset, d.path, d.revision
FROM examples e JOIN datasets d USING (dataset_id) JOIN runs r USING (dataset_id)
WHERE starts_with(e.example_id, $id) AND r.status = 'done'
QUALIFY row_number() OVER (PARTITION BY e.example_id ORDER BY r.finished_at DESC, r.run_id) = 1
ORDER BY e.example_id LIMIT 10"""

SHOWING = """
SELECT e.*, r.run_id, r.job, d.name AS dataset, d.path, d.revision
FROM runs r JOIN examples e USING (dataset_id) JOIN datasets d USING (dataset_id)
WHERE r.run_id = $run AND e.source = 'image' AND list_contains(e.concepts, $concept)
QUALIFY row_number() OVER (PARTITION BY e.media ORDER BY e.example_id) = 1
ORDER BY e.example_id LIMIT $count"""

RESPONSES = """
SELECT token_ids FROM responses WHERE model_id = $model_id AND example_id = $example_id ORDER BY generation"""


class HasMasks(Protocol):
    """What knows where a picture shows a concept."""

    def mask(self, media: str, concept: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class ToShow:
    """One prompt with what it shows, and its answer in words or as token ids.

    names: of the media, or of a text its prompt. dataset, pointers: where masks come from; None of files. example: the
    id of a stored one. run: the run whose exemplar it is. stored: its largest value, and the token where it was.
    """

    source: str
    prompt: str
    media: tuple[Medium, ...]
    names: tuple[str, ...]
    answer: str | None = None
    answer_ids: tuple[int, ...] = ()
    dataset: Dataset | None = None
    example: str | None = None
    run: str | None = None
    stored: tuple[float, str] | None = None


@dataclass
class Gathered:
    """What there is to show, and in sentences what could not be opened. tap: where its run read neurons."""

    shown: list[ToShow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tap: str | None = None


def from_files(
    prompt: str | None, image: Sequence[str] | None, audio: Sequence[str] | None, video: Sequence[str] | None
) -> list[ToShow]:
    """Each medium by itself, asked the prompt; or the prompt alone.

    Raises:
        BadMedia: one is missing or cannot be read.
    """
    shown: list[ToShow] = []
    for source, names in ((IMAGE, image), (VIDEO, video), (AUDIO, audio)):
        for name in names or ():
            [medium] = open_media(**{"images" if source == IMAGE else source: [name]})
            known = dataset_of(name)
            dataset, pointer = known if known is not None else (None, name)
            shown.append(ToShow(source, prompt or QUESTION, (medium,), (pointer,), dataset=dataset))
    if not shown and prompt:
        shown.append(ToShow(TEXT, prompt, (), (prompt,)))
    return shown


def stored_example(atlas: Path, example: str, model_id: int) -> Gathered:
    """The example whose id begins so.

    Raises:
        UsageError: there is none, or several.
        AtlasError: its media cannot be opened.
    """
    with open_readonly(atlas) as connection:
        rows = Query(EXAMPLE, {"id": example}).run(connection).to_pylist()
        if not rows:
            raise UsageError(f"no stored example's id begins with '{example}' (`atlas sql` reads the table examples)")
        if len(rows) > 1:
            ids = ", ".join(row["example_id"][:12] for row in rows)
            raise UsageError(f"several examples' ids begin with '{example}': {ids}; give more of one")
        return Gathered([_opened(rows[0], _answer(connection, rows[0], model_id), {})])


def showing(atlas: Path, run: str, concept: str, count: int) -> Gathered:
    """At most so many stored pictures that show a concept, of a run's dataset; each picture once.

    Those whose files are gone are told in the notes.
    """
    with open_readonly(atlas) as connection:
        rows = Query(SHOWING.strip(), {"run": run, "concept": concept, "count": count}).run(connection).to_pylist()
    gathered, datasets = Gathered(tap=json.loads(rows[0]["job"]).get("tap") if rows else None), dict[str, Dataset]()
    for row in rows:
        try:
            gathered.shown.append(_opened(row, (), datasets))
        except AtlasError as error:
            gathered.notes.append(f"{', '.join(row['media'])} cannot be shown: {error.message}")
    return gathered


def exemplars(atlas: Path, neuron: Neuron, model_id: int, count: int, source: str | None) -> Gathered:
    """The stored examples that excite a neuron most: at most `count` of each source, or of the one that is named.

    Those whose files are gone are told in the notes.

    Raises:
        UsageError: none are stored, or none of that source.
    """
    where = {"component": neuron.component, "layer": neuron.layer, "neuron": neuron.index, "model_id": model_id}
    with open_readonly(atlas) as connection:
        rows = Query(EXEMPLARS.strip(), where).run(connection).to_pylist()
        answers = [_answer(connection, row, model_id) for row in rows]
    sources = [s for s in FIRST if s in {row["source"] for row in rows}]
    if not rows:
        raise UsageError(
            f"no exemplars of {neuron} are stored: it is above 0 on no example, or the run kept none (its job's "
            "`exemplars`); `atlas plot heatmap` shows it on any picture"
        )
    if source is not None and source not in sources:
        raise UsageError(f"{neuron} has no exemplars with source {source}; [[source={sources[0]}]] has some")
    gathered, datasets = Gathered(tap=json.loads(rows[0]["job"]).get("tap")), dict[str, Dataset]()
    for wanted in [source] if source else sources:
        of_source = [(r, a) for r, a in zip(rows, answers, strict=True) if r["source"] == wanted]
        for row, answer in of_source[:count]:
            try:
                gathered.shown.append(_opened(row, answer, datasets))
            except AtlasError as error:
                what = ", ".join(row["media"]) or f"'{row['prompt']}'"
                gathered.notes.append(f"exemplar {row['rank']} ({what}) cannot be shown: {error.message}")
    return gathered


def _answer(connection: Any, row: Mapping[str, Any], model_id: int) -> tuple[int, ...]:
    """The model's own answer as token ids; none where the example has a reference answer, or it was not stored."""
    if row["answer"] is not None:
        return ()
    stored = Query(RESPONSES.strip(), {"model_id": model_id, "example_id": row["example_id"]}).run(connection)
    return tuple(stored["token_ids"][0].as_py()) if stored.num_rows else ()


def _opened(row: Mapping[str, Any], answer_ids: tuple[int, ...], datasets: dict[str, Dataset]) -> ToShow:
    """A stored example with its media. datasets: those that are open already, by run."""
    dataset: Any = None
    if row["media"]:
        if row["run_id"] not in datasets:
            name = row["dataset"] if row["path"] is None else f"{row['dataset']}:{row['path']}"
            spec = DataSpec(dataset=name, options=json.loads(row["job"]).get("options") or {})
            datasets[row["run_id"]] = open_dataset(spec)
        dataset = datasets[row["run_id"]]
        if dataset.revision != row["revision"]:
            raise UsageError(f"the dataset {row['dataset']} is not the one that was ingested: its revision has changed")
    media = tuple(_medium(dataset, row["source"], pointer) for pointer in row["media"])
    return ToShow(
        row["source"],
        row["prompt"],
        media,
        tuple(row["media"]) or (row["prompt"],),
        row["answer"],
        answer_ids,
        dataset,
        row["example_id"],
        row["run_id"] if "value" in row else None,
        (row["value"], row["token"]) if "value" in row else None,
    )


def _medium(dataset: Any, source: str, pointer: str) -> Medium:
    if source == AUDIO:
        return Sound(*dataset.audio(pointer))
    if source == VIDEO:
        return Clip(tuple(dataset.video(pointer)))
    picture: Medium = dataset.image(pointer)
    return picture
