"""One neuron: its tokens, concepts and examples."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from atlas.errors import UsageError
from atlas.neurons import LANGUAGE, no_exemplars, no_such_neuron
from atlas.neurons import Neuron as Address
from atlas.query import statements
from atlas.query.answer import Answer
from atlas.query.decoded import token_notes
from atlas.query.map_spec import Coordinates
from atlas.query.option import described, option, required
from atlas.query.provenance import Provenance
from atlas.query.question import Question
from atlas.query.resolve_maps import choose_map
from atlas.questions._strongest import Strongest
from atlas.store.database import open_readonly

WIDE = ("target", "position", "role", "media", "concepts", "example")
"""Columns of exemplars that do not fit on a line of a terminal."""


class Profile(Answer):
    """One neuron: its best concepts are the rows; tokens and exemplars are further tables."""

    neuron: Address
    model: str
    path: Path

    @property
    def concepts(self) -> Answer:
        """Its best concepts: method, source, reduce, concept, score, rank, percentile."""
        return Answer(self.table, self.provenance)

    def ranked(self) -> list[dict[str, Any]]:
        """The rows of its concepts that have a rank, the best first."""
        return sorted((row for row in self.to_pylist() if row["rank"] is not None), key=lambda row: row["rank"])

    @property
    def tokens(self) -> Answer:
        """The tokens that it raises and lowers: projection (see `atlas.query.decoded`), side, tokens, values."""
        return Answer(self.parts["tokens"], self.provenance)

    @property
    def exemplars(self) -> Strongest:
        """Its strongest examples by source: rank, value, where in the prompt, the prompt, its answer, its pictures."""
        notes = [] if self.parts["exemplars"].num_rows else [no_exemplars(self.neuron)]
        strongest = Strongest(self.parts["exemplars"], self.provenance, facts=self.facts, notes=notes)
        strongest.path = self.path
        return strongest

    def heatmap(self, image: str | Sequence[str] | None = None, *, model: str | None = None, **options: Any) -> Answer:
        """Its activation over the tokens of a picture, laid on the picture: see `Atlas.heatmap`.

        image: a file or DATASET:POINTER. model: by default the one that it is a neuron of, by its name. options: of
        `Atlas.heatmap`: example, exemplars, concept, prompt, audio, video, ...

        Raises:
            UsageError: the model has other weights than the one that it is a neuron of.
        """
        return self._of_this_model("heatmap", model, image=image, **options)

    def gallery(self, *, model: str | None = None, **options: Any) -> Answer:
        """Its stored exemplars with its activation on them: see `Atlas.gallery`. `.plot()` draws them.

        Raises:
            UsageError: the model has other weights than the one that it is a neuron of.
        """
        return self._of_this_model("gallery", model, **options)

    def _of_this_model(self, method: str, model: str | None, **options: Any) -> Answer:
        """What runs a model, of this neuron, as a method of `Atlas` does it."""
        whole = importlib.import_module("atlas.api.atlas").Atlas(self.path)
        answer: Answer = getattr(whole, method)(self.neuron, model=model or self.model, **options)
        own, given = str(self.provenance["fingerprint"]), str(answer.facts["fingerprint"])
        if own != given:
            raise UsageError(
                f"{self.neuron} is a neuron of {self.model} with the weights {own[:12]}, and [[model]] has "
                f"{given[:12]}; give the former"
            )
        return answer

    @property
    def heading(self) -> str:
        return f"neuron {self.neuron} of {self.model}"

    def readable(self) -> dict[str, pa.Table]:
        tokens, exemplars = self.parts["tokens"], self.parts["exemplars"]
        wide = [name for name in exemplars.column_names if name in WIDE]
        tables = {"tokens": tokens.drop_columns(["values"]), "concepts": self.table.drop_columns(["target"])}
        return tables | {"exemplars": exemplars.drop_columns(wide)}

    def __repr__(self) -> str:
        return f"Profile(neuron {self.neuron} of {self.model}: {len(self)} concepts)"


@described
class Neuron(Coordinates, Question[Profile]):
    """One neuron: the tokens it raises and lowers, its best concepts by method and source, its strongest examples.

    The coordinates narrow its best concepts down. A score of 0 in a map that has larger ones has no rank. The random
    control is left out, unless it is the method asked for.

    Raises:
        UsageError: not an address, or a neuron that the model does not have.
    """

    examples = ("atlas neuron 3/117",)

    address: str | Address = required("layer/index, for example 3/117.", argument=True, kw_only=False)
    top: int = option("Concepts for each method and source.", "--top", "-n", "--limit", default=3, least=1)

    def answer(self, path: Path) -> Profile:
        neuron = Address.parse(self.address) if isinstance(self.address, str) else self.address
        with open_readonly(path) as connection:
            chosen = choose_map(connection, self.maps())
            if neuron.layer >= chosen["layers"] or neuron.index >= chosen["width"]:
                raise no_such_neuron(neuron, chosen["model"], chosen["layers"], chosen["width"])
            maps = statements.find_maps(replace(self.maps(), model=chosen["model"])).run(connection).to_pylist()
            shown = [m for m in maps if m["method"] == self.method or m["method"] != "random"]
            ids = [m["map_id"] for m in shown if m["model_id"] == chosen["model_id"]]
            tokens = statements.decoded_tokens(neuron, chosen["model_id"]).run(connection)
            concepts = statements.best_concepts(neuron, ids, top=self.top).run(connection)
            notes = token_notes(connection, [chosen["model_id"]])
            exemplars = statements.strongest_examples(neuron, chosen["model_id"]).run(connection)
        if neuron.component != LANGUAGE and not (len(tokens) or len(concepts) or len(exemplars)):
            raise UsageError(
                f"the atlas has no data on the component '{neuron.component}'; "
                "write layer/index, for example 3/117, for a neuron of the language model"
            )
        reported = ("model=", "fingerprint=", "dataset=", "run=")
        provenance: Provenance = {"model": chosen["model"], "fingerprint": chosen["fingerprint"]}
        provenance["runs"] = sorted({m["run_id"] for m in shown if m["map_id"] in ids})
        provenance["assumed"] = [*(a for a in chosen.defaults if a.startswith(reported)), *notes]
        facts = {"neuron": str(neuron), "model": str(chosen["model"])}
        said = [] if len(exemplars) else [no_exemplars(neuron)]
        parts = {"tokens": tokens, "exemplars": exemplars}
        profile = Profile(concepts, provenance, facts=facts, notes=said, parts=parts)
        profile.neuron, profile.model, profile.path = neuron, str(chosen["model"]), path
        return profile
