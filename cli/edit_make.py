"""`atlas edit create` and `compose`: neurons and what becomes of them, to a stored edit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from atlas.errors import UsageError
from cli.common import (
    AtlasPath,
    Method,
    Model,
    Of,
    Reduce,
    Run,
    Select,
    Source,
    Target,
    note_defaults,
    resolve,
    spelling,
    tell,
)

ConceptName = Annotated[
    str | None, typer.Option("--concept", "-c", help="The concept's name (`atlas concepts` lists them).")
]
Layers = Annotated[str | None, typer.Option("--layers", help="Only neurons of these layers: 3, 8-15.")]
Top = Annotated[
    str | None,
    typer.Option("--top", "-n", help="How many neurons: 40, or 1%. [default: 40, or all that --select does]"),
]
Labels = Annotated[
    str | None,
    typer.Option("--labels", help="The neurons that a run labelled: RUN or RUN:LABEL (`atlas labels ls`)."),
]
Note = Annotated[str | None, typer.Option("--note", help="Your own words about it.")]
Whose = Annotated[str | None, typer.Option("--dataset", "-d", help="The dataset's name.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the noise; which examples a solver sees.")]


def create(
    name: Annotated[str, typer.Argument(help="A name for the edit, for example no-dog.")],
    concept: ConceptName = None,
    method: Method = None,
    source: Source = None,
    target: Target = None,
    reduce: Reduce = None,
    model: Model = None,
    dataset: Whose = None,
    run: Run = None,
    layers: Layers = None,
    select: Select = None,
    top: Top = None,
    labels: Labels = None,
    of: Of = None,
    complement: Annotated[
        bool, typer.Option("--complement", help="Every neuron but these: what is left when only they work.")
    ] = False,
    set_to: Annotated[
        float | None, typer.Option("--set", help="Replace the values by this constant; 0 ablates.")
    ] = None,
    scale: Annotated[float | None, typer.Option("--scale", help="Multiply the values by this.")] = None,
    shift: Annotated[
        str | None, typer.Option("--shift", help="Add this to the values (steering): 0.5, or 2sd, their deviations.")
    ] = None,
    mean: Annotated[bool, typer.Option("--mean", help="Replace each value by the neuron's stored mean.")] = False,
    minimum: Annotated[bool, typer.Option("--min", help="Replace each value by the neuron's stored minimum.")] = False,
    noise: Annotated[
        float | None,
        typer.Option("--noise", help="Add Gaussian noise of this deviation to the values, drawn from --seed by place."),
    ] = None,
    write_noise: Annotated[
        float | None, typer.Option("--write-noise", help="Add Gaussian noise of this deviation to the write vectors.")
    ] = None,
    where: Annotated[
        str, typer.Option("--where", help="role=image,text; position=-1,2:5; phase=prefill; joined by ';'.")
    ] = "all",
    seed: Seed = 0,
    note: Note = None,
    atlas: AtlasPath = None,
) -> None:
    """Choose neurons (a concept's best, labelled ones, other edits') and store what becomes of them; a name given
    again gets the next version.

    Example: atlas edit create no-dog --concept dog --method contribution --source text --top 40 --set 0
    """
    from atlas.api.atlas import Atlas
    from atlas.query.map_spec import MapSpec

    kind = _kind(set_to, scale, shift, mean, minimum, noise, write_noise)
    opened = Atlas(resolve(atlas))
    which = MapSpec(concept, method, source=source, target=target, reduce=reduce, model=model, dataset=dataset, run=run)
    chosen = neurons_of(opened, which, select=select, top=top, layers=layers, labels=labels, of=of)
    if complement:
        chosen = opened.complement(chosen)
    edit = opened.create_edit(name, chosen, kind, where=where, seed=seed, note=note).data
    tell(f"{edit.label}: {len(edit.neurons)} neurons of {edit.model['name']}")


def neurons_of(
    there: Any,
    which: Any,
    *,
    select: str | None,
    top: int | str | None,
    layers: str | None,
    labels: str | None,
    of: str | None,
) -> Any:
    """The set of neurons that a command line means."""
    from atlas.query.labels import labelled

    if (which.concept is not None) + (labels is not None) + (of is not None) != 1:
        raise UsageError("choose neurons by one of --concept dog, --labels RUN:LABEL and --of 'no-dog & no-cat'")
    coordinates = (which.method, which.source, which.target, which.reduce, which.dataset, which.run, which.model)
    if which.concept is None and (select or layers or top or any(coordinates)):
        raise UsageError(
            "--select, --top, --layers, --method, --source and --model choose a concept's neurons: give --concept"
        )
    if of is not None:
        return there.selection(of)
    if labels is not None:
        run, _, label = labels.partition(":")
        return labelled(there.path, run, label or None)
    limit = top if select or top else 40
    neurons = there.query(**which.given(), layers=layers, select=select, top=limit)
    note_defaults(neurons)
    return neurons


def _kind(
    set_to: float | None,
    scale: float | None,
    shift: str | None,
    mean: bool,
    minimum: bool,
    noise: float | None,
    write_noise: float | None,
) -> Any:
    """The one kind of change that was given.

    Raises:
        UsageError: none, or several.
    """
    from atlas.edits import kinds

    options: dict[str, tuple[Callable[..., kinds.ChangeKind], Any]] = {
        "--set": (kinds.set_to, set_to),
        "--scale": (kinds.scale, scale),
        "--shift": (kinds.parse_shift, shift),
        "--noise": (kinds.noise, noise),
        "--write-noise": (kinds.write_noise, write_noise),
        "--mean": (kinds.mean, mean or None),
        "--min": (kinds.minimum, minimum or None),
    }
    chosen = [(make, value) for make, value in options.values() if value is not None]
    if len(chosen) != 1:
        raise UsageError(f"say what becomes of the neurons with exactly one of {', '.join(options)}")
    make, value = chosen[0]
    with spelling({"set_to": "--set", "steer": "--shift"}):
        return make() if value is True else make(value)


def compose(
    name: Annotated[str, typer.Argument(help="A name for the edit that does what all of them do.")],
    edits: Annotated[list[str], typer.Argument(help="Two or more edits: name, or name@version.")],
    conflict: Annotated[
        str,
        typer.Option("--conflict", help="A neuron in several: error, priority (the first has it) or sequence."),
    ] = "error",
    note: Note = None,
    atlas: AtlasPath = None,
) -> None:
    """Store one edit that does what several do.

    Example: atlas edit compose no-pets no-dog no-cat --conflict priority
    """
    from atlas.api.atlas import Atlas

    edit = Atlas(resolve(atlas)).compose_edits(name, edits, conflict=conflict, note=note).data
    tell(f"{edit.label}: {len(edit.neurons)} neurons of {edit.model['name']}")
