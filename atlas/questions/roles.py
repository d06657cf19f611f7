"""What neurons do at each kind of token."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import UsageError, unknown
from atlas.neurons import LANGUAGE, no_such_neuron
from atlas.neurons import Neuron as Address
from atlas.query.answer import Answer
from atlas.query.map_spec import Coordinates, MapSpec
from atlas.query.option import described, option
from atlas.query.provenance import Provenance
from atlas.query.question import Question
from atlas.query.resolve_maps import StoredMap, choose_map, narrow
from atlas.query.statements import find_maps
from atlas.questions.query import Query
from atlas.stats.role_values import PROFILE, STATISTICS, role_values
from atlas.store.database import open_readonly
from atlas.token_roles import ROLES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

BEST = 40


@described
class Roles(Coordinates, Question[Answer]):
    """What neurons do at text, special, image, audio and video tokens: one row a statistic and role.

    Of one neuron (3/117), of a concept's best neurons, or of saved neurons. value: the mean over the `neurons` that the
    map scores, with its 95 % interval over them (none of fewer than three); expected: the mean over all neurons of the
    same layers, each layer counted as often as it has a neuron here; positions: how many tokens, of MINER's statistics
    examples, the values are over. Statistics: modality_profile.share (of the neuron's mean |activation| over the roles;
    the default with rate and mean), .rate (how often it is above 0), .mean; lape.role; miner, miner.prob, ...

    The rows come from `atlas ingest --methods modality_profile` (or lape, miner).

    Raises:
        UsageError: no neurons or two kinds of them, nothing stored by role, or maps that keep only their best scores.
    """

    examples = (
        "atlas roles 3/117",
        "atlas roles --concept dog --method contribution --source image --top 40",
        "atlas roles --of 'dog & no-dog' --statistics modality_profile.share",
    )

    address: str | Address | None = option(
        "layer/index, for example 3/117; or give a [[concept]], or [[of]].", default=None, argument=True, kw_only=False
    )
    of: str | None = option("Saved selections and edits: 'dog & no-dog'.", default=None)
    statistics: tuple[str, ...] = option(
        "Which: modality_profile.share,miner.prob. [default: those of modality_profile, or what is stored]", default=()
    )
    top: int = option("How many of the concept's best neurons.", "--top", "-n", default=BEST, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.address, self.of, self.concept).count(None) != 2:
            raise UsageError("give one of a neuron, for example 3/117, a [[concept]], and [[of]]")
        if self.concept is None:
            names = [f.name for f in fields(Coordinates)]
            names = [name for name in names if name not in ("model", "dataset", "run")]
            given = [name for name in names if getattr(self, name) is not None]
            given += ["top"] if self.top != BEST else []
            if given:
                raise UsageError(
                    f"[[{given[0]}]] chooses among a concept's neurons; leave it out, or give a [[concept]]"
                )
        for name in self.statistics:
            if name not in STATISTICS:
                raise unknown("statistic by token role", name, STATISTICS, "atlas roles --help")

    def answer(self, path: Path) -> Answer:
        if self.address is not None:
            return self._answer(path, None)
        if self.of is not None:
            from atlas.edits.set_expression import of_expression

            found = of_expression(path, self.of)
        else:
            asked: dict[str, Any] = {**self.maps().given()}
            found = Query(**asked, top=self.top).answer(path)
        if any(neuron.component != LANGUAGE for neuron in found.neurons):
            raise UsageError("values by token role are of the language model's neurons; some of these are elsewhere")
        if not found.neurons:
            raise UsageError("there are no neurons in this set")
        return self._answer(path, found)

    def _answer(self, path: Path, found: Any) -> Answer:
        with open_readonly(path) as connection:
            if found is None:
                neuron = Address.parse(self.address) if isinstance(self.address, str) else self.address
                assert neuron is not None
                chosen = choose_map(connection, MapSpec(model=self.model, dataset=self.dataset, run=self.run))
                if neuron.layer >= chosen["layers"] or neuron.index >= chosen["width"]:
                    raise no_such_neuron(neuron, chosen["model"], chosen["layers"], chosen["width"])
                neurons, fingerprint = [neuron], chosen["fingerprint"]
                assumed = [text for text in chosen.defaults if text.startswith(("model=", "fingerprint="))]
                named = str(neuron)
            else:
                neurons, fingerprint = found.neurons, found.provenance.get("fingerprint")
                assumed = [*found.provenance.get("assumed", ())]
                named = self.of or f"the best {len(neurons)} of {self.concept}"
            if fingerprint is None:
                raise UsageError("these neurons are of several models; give the [[model]]")
            maps, filled = self._maps(connection, str(fingerprint))
            addresses = sorted({(n.layer, n.index) for n in neurons})
            rows = role_values(connection, maps, addresses)
        provenance: Provenance = {"fingerprint": fingerprint, "assumed": [*assumed, *filled]}
        provenance["maps"] = [StoredMap(m, ()).summary() for m in maps]
        provenance["maps"] += [] if found is None else found.provenance.get("maps", [])
        facts = {"of": named, "neurons": len(addresses), "model": maps[0]["model"]}
        return Answer(rows, provenance, facts=facts, brief=rows.drop_columns(["run_id"]))

    def _maps(self, connection: Connection, fingerprint: str) -> tuple[list[dict[str, Any]], list[str]]:
        """The maps by role of these weights, of one dataset; and what was filled in."""
        spec = MapSpec(concept="*", fingerprint=fingerprint, dataset=self.dataset, component=LANGUAGE)
        rows = find_maps(spec).run(connection).to_pylist()
        rows = [row for row in rows if row["method"] in STATISTICS and row["source"] in ROLES]
        stored = {row["method"] for row in rows}
        of_profile = [name for name in STATISTICS if name.startswith(PROFILE) and name in stored]
        wanted = self.statistics or of_profile or sorted(stored)
        if missing := next((name for name in wanted if name not in stored), None) or (None if stored else PROFILE):
            method = missing.partition(".")[0]
            raise UsageError(
                f"no values by token role of {missing} are stored for this model; `atlas ingest --methods {method}` "
                "stores them"
            )
        maps, filled = narrow([row for row in rows if row["method"] in wanted], ("dataset", "tap"))
        if short := next((m for m in maps if m["kept"] < m["neurons"]), None):
            raise UsageError(
                f"the map of {short['method']} at {short['source']} tokens has only its best {short['kept']} of "
                f"{short['neurons']} neurons; ingest it without `--keep`"
            )
        return maps, filled
