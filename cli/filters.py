"""Options of the query language, one for each of its fields that is often asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from atlas.find import Ask

ConceptPattern = Annotated[
    str | None,
    typer.Option("--concept", "-c", help="The concept: its name, another word for it, or a pattern: 'd*'."),
]
Token = Annotated[str | None, typer.Option("--token", help="Only neurons that decode to this token: bark, or bark*.")]
Label = Annotated[
    str | None, typer.Option("--label", help="Only neurons with this label: image, or miner:image (`atlas labels ls`).")
]
Inside = Annotated[
    str | None, typer.Option("--in", help="Only neurons of saved selections: 'dog & cat' (`atlas select ls`).")
]
Effect = Annotated[
    str | None,
    typer.Option(
        "--effect", help="Only neurons of an edit that was measured to do so: suppression>0.5 (`atlas evaluate`)."
    ),
]
Score = Annotated[str | None, typer.Option("--score", help="Only such scores: '>0.5'.")]
Rank = Annotated[str | None, typer.Option("--rank", help="Only such ranks in the map: '<=40'.")]
Percentile = Annotated[str | None, typer.Option("--percentile", help="Only such percentiles of the map: '>=99'.")]
Z = Annotated[str | None, typer.Option("--z", help="Only so many robust standard deviations of the map: '>4'.")]
WhereText = Annotated[str | None, typer.Option("--where", help="Any condition: 'layer in 8-15 and not token = bark'.")]
Sort = Annotated[
    str | None, typer.Option("--sort", help="Fields to sort by, the largest first with a minus: --sort=-score. [rank]")
]
Top = Annotated[
    int | None,
    typer.Option("--top", "-n", "--limit", min=1, help="How many rows. [default: 20, or all that --select does]"),
]
Each = Annotated[bool, typer.Option("--each", help="Every neuron once, with the map in which it ranks best.")]
After = Annotated[str | None, typer.Option("--after", help="Go on behind a page: the cursor that it ended with.")]


def asked(
    names: Mapping[str, str | None],
    neurons: Mapping[str, Any],
    select: str | None,
    sort: str | None,
    top: int | None,
    after: str | None,
    each: bool = False,
) -> Ask:
    """What the options of a question mean."""
    from atlas import flags

    return flags.asked(flags.wanted(names, **neurons), select, sort, top, after, each)
