"""A neuron as words: its decoded tokens, and the concepts in whose maps it ranks best.

The words are embedded (the space `decoded`, see `ingest.embed.word_vectors`), or matched literally without an encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE
from atlas.query.decoded import RAISED
from atlas.query.map_spec import MapSpec
from atlas.query.resolve_maps import StoredMap, choose_concepts
from atlas.query.selection_rules import placed

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
"""Letters and digits; a hyphen or an apostrophe only between them."""

FUNCTION_WORDS = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "in", "is", "it", "its", "of", "on"),
        *("or", "that", "the", "their", "this", "to", "was", "which", "who", "with"),
    )
)


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How many decoded tokens and concepts are a neuron's words; a concept counts where the neuron is among the best
    `share` of its map."""

    tokens: int = 10
    concepts: int = 3
    share: float = 0.01

    def __post_init__(self) -> None:
        if self.tokens < 0 or self.concepts < 0 or not 0 < self.share <= 1 or not self.tokens + self.concepts:
            raise UsageError(
                "[[tokens]] and [[concepts]] must be at least 0, not both 0, and [[share]] above 0 and at most 1"
            )


def concept_maps(connection: Connection, spec: MapSpec) -> list[StoredMap]:
    """The maps that give a neuron's best concepts, one for each concept; empty where this model has none.

    Raises:
        UsageError: a requested method, source, ... has no map.
    """
    try:
        return choose_concepts(connection, spec)
    except UsageError:
        if spec.method or spec.source or spec.target or spec.reduce or spec.dataset or spec.run:
            raise
        return []


NeuronWords = tuple[list[str], list[str]]
"""A neuron's decoded tokens and the names of its best concepts, each best first."""


def neuron_words(
    connection: Connection, model: Mapping[str, Any], chosen: Sequence[StoredMap], wording: TextOptions
) -> list[NeuronWords]:
    """The words of every neuron of the language model, layer by layer.

    Tokens without a letter or a digit are left out, and those that differ from an earlier one only in case.
    """
    width = int(model["width"])
    words: list[NeuronWords] = [([], []) for _ in range(int(model["layers"]) * width)]
    query = f"""
SELECT layer::INTEGER * $width + neuron AS at, tokens FROM {RAISED}
WHERE model_id = $model AND component = '{LANGUAGE}'"""
    rows = connection.sql(query, params={"model": model["model_id"], "width": width}).fetchall()
    for at, tokens in rows if wording.tokens else ():
        words[at][0].extend(_readable(tokens)[: wording.tokens])
    for at, names in _best_concepts(connection, chosen, width, wording):
        words[at][1].extend(names)
    return words


def _readable(tokens: Sequence[str]) -> list[str]:
    shown: dict[str, str] = {}
    for token in tokens:
        word = token.strip()
        if word.isprintable() and WORD.search(word):
            shown.setdefault(word.lower(), word)
    return list(shown.values())


def _best_concepts(
    connection: Connection, chosen: Sequence[StoredMap], width: int, wording: TextOptions
) -> list[tuple[int, list[str]]]:
    query = f"""
SELECT s.layer::INTEGER * $width + s.neuron AS at, list(c.name ORDER BY s.rank, c.name)[1:$most] AS names
FROM scores s JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)
WHERE s.map_id IN (SELECT unnest($maps::INTEGER[])) AND s.rank <= ceil($share * m.neurons) AND {placed("s")}
GROUP BY 1"""
    values = {"maps": [c["map_id"] for c in chosen], "share": wording.share, "most": wording.concepts, "width": width}
    return connection.sql(query, params=values).fetchall() if chosen and wording.concepts else []


def matching(
    connection: Connection,
    model: Mapping[str, Any],
    chosen: Sequence[StoredMap],
    text: str,
    top: int,
    share: float = 0.01,
) -> pa.Table:
    """The neurons whose decoded tokens, or the names, forms and supercategories of whose best concepts, are the words
    of a text: component, layer, neuron, match, matched; best first.

    match: the sum of the matched words' ln(1 + N / n) / log2(1 + place), where n of the N neurons that have words have
    this one, and place is where it comes among the neuron's decoded tokens or, if that is less, the neuron's rank for
    the concept; over the sum of ln(1 + N / n) of all words of the text that any neuron has. It is 1 where all come
    first. Words are whole, in any case; a plural in -s matches its singular; function words (a, the, of, ...) count
    only where the text has no others.

    Raises:
        UsageError: the text has no word.
    """
    parts = {word for part in WORD.findall(text.lower()) for word in re.findall(r"[^\W_]+", part)}
    words = sorted({_stem(word) for word in parts - FUNCTION_WORDS or parts})
    if not words:
        raise UsageError(f"'{text}' has no word to search for; write one or more words")
    query = f"""
WITH neuron_words AS (
    SELECT layer, neuron, lower(trim(unnest(tokens))) AS word, generate_subscripts(tokens, 1) AS place FROM {RAISED}
    WHERE model_id = $model AND component = '{LANGUAGE}'
    UNION ALL
    SELECT s.layer, s.neuron, unnest(list_concat([c.name, c.supercategory], c.forms)) AS word, s.rank AS place
    FROM scores s JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)
    WHERE s.map_id IN (SELECT unnest($maps::INTEGER[])) AND s.rank <= ceil($share * m.neurons)
        AND {placed("s")}),
parts AS (
    SELECT layer, neuron, place, unnest(regexp_extract_all(lower(word), '[\\p{{L}}\\p{{N}}]+')) AS word
    FROM neuron_words),
stems AS (SELECT layer, neuron, {_STEM_SQL} AS word, min(place) AS place FROM parts GROUP BY ALL),
total AS (SELECT count(DISTINCT (layer, neuron)) AS neurons FROM stems),
matching AS (SELECT * FROM stems WHERE word IN (SELECT unnest($words::VARCHAR[]))),
weighed AS (SELECT word, ln(1 + any_value(total.neurons) / count(*)) AS weight FROM matching, total GROUP BY word)
SELECT '{LANGUAGE}' AS component, layer, neuron,
       (sum(weight / log2(1 + place)) / (SELECT sum(weight) FROM weighed))::FLOAT AS match,
       list(word ORDER BY weight DESC, word) AS matched
FROM matching JOIN weighed USING (word) GROUP BY layer, neuron
ORDER BY match DESC, layer, neuron LIMIT $top"""
    values = {"model": model["model_id"], "maps": [c["map_id"] for c in chosen], "share": share}
    return connection.sql(query, params={**values, "words": words, "top": top}).to_arrow_table()


def _stem(word: str) -> str:
    """The singular of an English plural in -s, by a crude rule used for the query and the neurons' words alike."""
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


_STEM_SQL = "CASE WHEN len(word) > 3 AND word LIKE '%s' AND word NOT LIKE '%ss' THEN word[:-2] ELSE word END"
