"""Options of the query language, one for each of its fields that is often asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.common import Method, Reduce, Select, Source, Target

if TYPE_CHECKING:
    from atlas.query.find import NeuronQuery

Model = Annotated[str | None, typer.Option("--model", "-m", help="The model's name (`atlas models` lists them).")]
Dataset = Annotated[
    str | None, typer.Option("--dataset", "-d", help="The dataset's name, where several have the concept.")
]
Run = Annotated[str | None, typer.Option("--run", help="The run, by the beginning of its id.")]
Supercategory = Annotated[
    str | None, typer.Option("--supercategory", help="All concepts of it (`atlas concepts` lists them).")
]


@dataclass(frozen=True)
class Question:
    """Which neurons of which maps, and how many."""

    concept: Annotated[
        str | None,
        typer.Option("--concept", "-c", help="The concept: its name, another word for it, or a pattern: 'd*'."),
    ] = None
    method: Method = None
    source: Source = None
    target: Target = None
    reduce: Reduce = None
    model: Model = None
    dataset: Dataset = None
    run: Run = None
    supercategory: Supercategory = None
    layers: Annotated[str | None, typer.Option("--layers", help="Only these layers: 3, 8-15, 0,2,8-15.")] = None
    token: Annotated[
        str | None, typer.Option("--token", help="Only neurons that decode to this token: bark, or bark*.")
    ] = None
    label: Annotated[
        str | None,
        typer.Option("--label", help="Only neurons with this label: image, or miner:image (`atlas labels ls`)."),
    ] = None
    inside: Annotated[
        str | None, typer.Option("--in", help="Only neurons of saved selections: 'dog & cat' (`atlas select ls`).")
    ] = None
    effect: Annotated[
        str | None,
        typer.Option(
            "--effect", help="Only neurons of an edit that was measured to do so: suppression>0.5 (`atlas evaluate`)."
        ),
    ] = None
    score: Annotated[str | None, typer.Option("--score", help="Only such scores: '>0.5'.")] = None
    rank: Annotated[str | None, typer.Option("--rank", help="Only such ranks in the map: '<=40'.")] = None
    percentile: Annotated[
        str | None, typer.Option("--percentile", help="Only such percentiles of the map: '>=99'.")
    ] = None
    z: Annotated[str | None, typer.Option("--z", help="Only so many robust standard deviations of the map: '>4'.")] = (
        None
    )
    where: Annotated[
        str | None, typer.Option("--where", help="Any condition: 'layer in 8-15 and not token = bark'.")
    ] = None
    select: Select = None
    sort: Annotated[
        str | None,
        typer.Option("--sort", help="Fields to sort by, the largest first with a minus: --sort=-score. [rank]"),
    ] = None
    top: Annotated[
        int | None,
        typer.Option("--top", "-n", "--limit", min=1, help="How many rows. [default: 20, or all that --select does]"),
    ] = None

    def names(self) -> dict[str, str | None]:
        """What names maps."""
        found = {"concept": self.concept, "method": self.method, "source": self.source, "target": self.target}
        found |= {"reduce": self.reduce, "model": self.model, "dataset": self.dataset, "run": self.run}
        return found | {"supercategory": self.supercategory}

    def neurons(self) -> dict[str, str]:
        """What was given of their neurons, as `atlas.query.request.build_filter` takes it."""
        found = {"layers": self.layers, "token": self.token, "label": self.label, "selection": self.inside}
        found |= {"effect": self.effect, "score": self.score, "rank": self.rank, "percentile": self.percentile}
        found |= {"z": self.z, "where": self.where}
        return {name: value for name, value in found.items() if value is not None}

    def ask(self, after: str | None = None, each: bool = False) -> NeuronQuery:
        return self._asked(self.names(), self.sort, after, each)

    def elsewhere(self, names: Mapping[str, Any]) -> NeuronQuery:
        """The same question about other maps, and the best as many there."""
        return self._asked(names, None)

    def _asked(self, names: Mapping[str, Any], sort: str | None, *page: Any) -> NeuronQuery:
        from atlas.query import request

        return request.build_request(request.build_filter(names, **self.neurons()), self.select, sort, self.top, *page)
