"""What a neuron's values are looked at on: files and prompts, or the atlas's stored examples with their media."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from atlas.errors import AtlasError, UsageError
from atlas.live.media import Medium
from atlas.neurons import Neuron, no_exemplars
from atlas.query.statements import Query
from atlas.store.database import open_readonly
from ingest.data.examples import AUDIO, IMAGE, TEXT, VIDEO, Dataset
from ingest.run.generate import dataset_of, open_media
from ingest.run.stored_media import COLUMNS, StoredMedia

QUESTION = "what is this?"
"""What is asked of a medium that comes without a prompt."""

FIRST = (IMAGE, VIDEO, AUDIO, TEXT)
"""The order in which examples of several sources are shown."""

EXEMPLARS = f"""
SELECT x.source, x.rank, x.value, x.token, x.position, r.finished_at, {COLUMNS}
FROM exemplars x JOIN runs r USING (run_id)
JOIN examples e ON e.example_id = x.example_id AND e.dataset_id = r.dataset_id
JOIN datasets d ON d.dataset_id = r.dataset_id
WHERE r.model_id = $model_id AND x.component = $component AND x.layer = $layer AND x.neuron = $neuron
QUALIFY dense_rank() OVER (PARTITION BY x.source ORDER BY r.finished_at DESC, r.run_id) = 1
ORDER BY x.rank"""

EXAMPLE = f"""
SELECT {COLUMNS}
FROM examples e JOIN datasets d USING (dataset_id) JOIN runs r USING (dataset_id)
WHERE starts_with(e.example_id, $id) AND r.status = 'done'
QUALIFY row_number() OVER (PARTITION BY e.example_id ORDER BY r.finished_at DESC, r.run_id) = 1
ORDER BY e.example_id LIMIT 10"""

SHOWING = f"""
SELECT {COLUMNS}
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
        return Gathered([to_show(rows[0], _answer(connection, rows[0], model_id), StoredMedia())])


def showing(atlas: Path, run: str, concept: str, count: int) -> Gathered:
    """At most so many stored pictures that show a concept, of a run's dataset; each picture once.

    Those whose files are gone are told in the notes.
    """
    with open_readonly(atlas) as connection:
        rows = Query(SHOWING.strip(), {"run": run, "concept": concept, "count": count}).run(connection).to_pylist()
    gathered, stored = Gathered(tap=json.loads(rows[0]["job"]).get("tap") if rows else None), StoredMedia()
    for row in rows:
        try:
            gathered.shown.append(to_show(row, (), stored))
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
        raise UsageError(f"{no_exemplars(neuron)}; `atlas plot heatmap {neuron} --image FILE` shows it on any picture")
    if source is not None and source not in sources:
        raise UsageError(f"{neuron} has no exemplars with source {source}; [[source={sources[0]}]] has some")
    gathered, stored = Gathered(tap=json.loads(rows[0]["job"]).get("tap")), StoredMedia()
    for wanted in [source] if source else sources:
        of_source = [(r, a) for r, a in zip(rows, answers, strict=True) if r["source"] == wanted]
        for row, answer in of_source[:count]:
            try:
                gathered.shown.append(to_show(row, answer, stored))
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


def to_show(row: Mapping[str, Any], answer_ids: tuple[int, ...], stored: StoredMedia) -> ToShow:
    """A stored example with its media."""
    media = stored.open(row)
    return ToShow(
        row["source"],
        row["prompt"],
        media,
        tuple(row["media"]) or (row["prompt"],),
        row["answer"],
        answer_ids,
        stored.dataset(row) if media else None,
        row["example_id"],
        row["run_id"] if "value" in row else None,
        (row["value"], row["token"]) if "value" in row else None,
    )
