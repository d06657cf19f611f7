"""What an atlas answers from neurons' vectors: similar neurons, neurons near a vector, matches across models.

Part of `Atlas`. Nothing here loads torch; texts and pictures become vectors in `ingest.embed.embed.search`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.neurons import Neuron
from atlas.query.map_spec import MapSpec
from atlas.query.statements import tokens_of
from atlas.store.database import open_readonly
from atlas.vectors.matching import Matched, match
from atlas.vectors.neighbours import Near
from atlas.vectors.neuron_text import concept_maps, matching
from atlas.vectors.spaces import Space, choose_space, find_spaces, pick_model, require_space

if TYPE_CHECKING:
    import numpy as np


class Nearest:
    """The methods of `Atlas` that compare vectors."""

    path: Path

    def similar(
        self,
        address: str | Neuron,
        space: str = "direction",
        *,
        top: int = 10,
        model: str | None = None,
        run: str | None = None,
    ) -> Near:
        """The neurons whose vectors in a space have the largest cosine with this neuron's; not itself.

        Raises:
            UsageError: no such neuron, a space that was never built, or nothing of the neuron to compare.
        """
        from atlas.vectors.nearest import nearest, stored_vectors

        neuron = Neuron.parse(address) if isinstance(address, str) else address
        _require_top(top)
        with open_readonly(self.path) as connection:
            chosen, assumed = choose_space(connection, space, model, run=run)
            at = [(neuron.component, neuron.layer, neuron.index)]
            try:
                vector = stored_vectors(connection, chosen.run_id, at)[0]
            except UsageError:
                last = f"{chosen.model['layers'] - 1}/{chosen.model['width'] - 1}"
                raise UsageError(f"no neuron {neuron}; {chosen.model['name']} has neurons 0/0 to {last}") from None
            if not vector.any():
                raise UsageError(f"neuron {neuron} has nothing in the space '{space}': its vector is zeros")
        # The database is closed here: an index that must be made again needs to write.
        found = nearest(self.path, chosen.run_id, vector, top, skip=neuron)
        return self._near(found, chosen.model, assumed, _said(chosen, str(neuron)))

    def nearest(self, vector: np.ndarray, space: Space, *, top: int = 10, assumed: Sequence[str] = ()) -> Near:
        """The neurons nearest to a vector of the same space, (dimension,) of any length.

        Raises:
            UsageError: another dimension, or zeros.
        """
        from atlas.vectors.nearest import nearest

        _require_top(top)
        found = nearest(self.path, space.run_id, vector, top)
        return self._near(found, space.model, list(assumed), _said(space, None))

    def search_words(self, text: str, *, top: int = 10, model: str | None = None) -> Near:
        """The neurons whose decoded tokens and best concepts have the words of a text: see
        `atlas.vectors.neuron_text.matching`.

        Raises:
            UsageError: the text has no word, or the model is not there.
        """
        _require_top(top)
        with open_readonly(self.path) as connection:
            row, assumed = pick_model(connection, model)
            chosen = concept_maps(connection, MapSpec(fingerprint=row["fingerprint"]))
            found = matching(connection, row, chosen, text, top)
        return self._near(found, row, assumed, {"text": text})

    def match(
        self,
        first: str,
        second: str,
        concept: str,
        *,
        method: str | None = None,
        source: str | None = None,
        target: str | None = None,
        reduce: str | None = None,
        top: int = 10,
        seed: int = 0,
    ) -> Matched:
        """For the best neurons of a concept in one model, the nearest in another by their profiles over the concepts
        that both have maps of (at least 3); models by name, or by the beginning of a fingerprint.

        Columns: component, layer, neuron, rank (in the concept's map), match_layer, match_neuron, similarity (cosine),
        mutual (whether the match's nearest in the first model is this neuron), null (the best similarity when the
        second model's concepts are permuted, the mean of 20 draws of `seed`), p (the share of draws, and of the real
        one, with a similarity at least as large), tokens and match_tokens.

        Raises:
            UsageError: an unknown model or map, maps that keep only their best scores, or too few shared concepts.
        """
        which = MapSpec(concept, method, source=source, target=target, reduce=reduce)
        with open_readonly(self.path) as connection:
            return match(connection, first, second, which, top, seed)

    def space(
        self, space: str = "decoded", *, model: str | None = None, identity: str | None = None
    ) -> tuple[Space, list[str]]:
        """The newest vectors of a space (by an encoder of this identity), and what was taken where it was left open.

        Raises:
            UsageError: it was never built.
        """
        with open_readonly(self.path) as connection:
            return choose_space(connection, space, model, identity=identity)

    def spaces(self, space: str | None = None) -> list[Space]:
        """Every run that made vectors, newest first."""
        if space is not None:
            require_space(space)
        with open_readonly(self.path) as connection:
            return find_spaces(connection, space)

    def build_index(self, run_id: str, kind: str | None = None) -> dict[str, Any]:
        """Make the similarity index of a run's vectors (again): see `atlas.vectors.faiss_files`."""
        from atlas.vectors.faiss_files import build_index

        return build_index(self.path, run_id, kind)

    def told(self, found: pa.Table, model: Mapping[str, Any]) -> pa.Table:
        """Rows of neurons (component, layer, neuron, ...) with their first tokens and their best concept."""
        with open_readonly(self.path) as connection:
            chosen = concept_maps(connection, MapSpec(fingerprint=str(model["fingerprint"])))
            at = {name: found[name].to_pylist() for name in ("component", "layer", "neuron")}
            values = {**at, "model": model["model_id"], "maps": [c["map_id"] for c in chosen]}
            told = connection.sql(_TOLD, params=values).to_arrow_table()
        for name in ("tokens", "concept"):
            found = found.append_column(name, told[name])
        return found

    def _near(self, found: pa.Table, model: Mapping[str, Any], assumed: list[str], said: Mapping[str, Any]) -> Near:
        provenance = {"model": model["name"], "fingerprint": model["fingerprint"], **said, "assumed": assumed}
        return Near(self.told(found, model), provenance)


def _said(space: Space, neuron: str | None) -> dict[str, Any]:
    return {"run": space.run_id, "space": space.space, "job": dict(space.job), "neuron": neuron}


def _require_top(top: int) -> None:
    if top < 1:
        raise UsageError("--top must be at least 1")


_TOLD = f"""
WITH found AS (
    SELECT component, layer, neuron, row_number() OVER () AS place
    FROM (SELECT unnest($component::VARCHAR[]) AS component, unnest($layer::SMALLINT[]) AS layer,
                 unnest($neuron::INTEGER[]) AS neuron)),
ranked AS (
    SELECT s.layer, s.neuron, m.component, arg_min(c.name, (s.rank, c.name)) AS concept
    FROM scores s JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)
    WHERE s.map_id IN (SELECT unnest($maps::INTEGER[])) AND s.layer IN (SELECT unnest($layer::SMALLINT[]))
        AND s.neuron IN (SELECT unnest($neuron::INTEGER[]))
    GROUP BY ALL)
SELECT d.tokens[1:5] AS tokens, r.concept
FROM found f
{tokens_of("f", "$model")}
LEFT JOIN ranked r ON r.component = f.component AND r.layer = f.layer AND r.neuron = f.neuron
ORDER BY f.place"""
