"""Questions about several maps: shared, only, layers, agreement. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from atlas.errors import UsageError
from cli.common import AtlasPath, Method, Of, Reduce, Select, Source, Target, note_assumed, resolve, say, words
from cli.filters import Dataset, Model, Run, Supercategory
from cli.groups import grouped
from cli.render import Output, show

OneConcept = Annotated[str | None, typer.Option("--concept", "-c", help="The concept's name: one row a neuron.")]


@dataclass(frozen=True)
class Sides:
    """A concept, or several, and the two maps of each that are compared."""

    concept: OneConcept = None
    concepts: Annotated[
        str | None, typer.Option("--concepts", help="all, or several: dog,cat. One row a concept, with q-values.")
    ] = None
    supercategory: Supercategory = None
    side: Annotated[str, typer.Option("--side", help="Compare two sources, or two targets: source or target.")] = (
        "source"
    )
    sources: Annotated[
        str | None,
        typer.Option("--sources", help="Two modalities; with --side target, one. [default: image,text]"),
    ] = None
    targets: Annotated[
        str | None,
        typer.Option("--targets", help="With --side target, two modalities; else one. [default: image,text]"),
    ] = None
    source: Source = None
    target: Target = None
    method: Method = None
    reduce: Reduce = None
    model: Model = None
    dataset: Dataset = None
    run: Run = None
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the best neurons of each side.")] = 40
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows to print.")] = 1000

    def names(self) -> dict[str, Any]:
        found = {"method": self.method, "reduce": self.reduce, "model": self.model}
        return found | {"dataset": self.dataset, "run": self.run}

    def asked(self) -> dict[str, Any]:
        given = {"source": (self.source, self.sources), "target": (self.target, self.targets)}
        _require_one_form(**given)
        found = {f"{name}s": words(plural) or words(single) for name, (single, plural) in given.items()}
        return {"side": self.side, **found}


@grouped
def shared(*, sides: Sides, output: Output, atlas: AtlasPath = None) -> None:
    """Which neurons carry a concept in both modalities, and how many three nulls would give.

    Rows come best first by the sum of their ranks, which are in the order of --sources. Chance draws from the neurons
    that both maps score; matched neurons are of the same layers, and of about the same mean |activation| where the
    atlas has that; other concepts' neurons tell what two sources share whatever the concept. "Shared" is claimed where
    all three are rejected. Over several concepts: one row a concept.

    Example: atlas shared --concept dog --sources image,text --top 40

    Example: atlas shared --concepts all --method contribution
    """
    _overlap(sides, False, output.chosen(), atlas)


@grouped
def only(*, sides: Sides, output: Output, atlas: AtlasPath = None) -> None:
    """Which neurons carry a concept in the first modality's top and not in the second's, and what chance would give.

    Ranks are in the order of --sources: `--sources text,image` gives the text's own neurons. Over several concepts:
    one row a concept.

    Example: atlas only --concept dog --sources image,text --top 40
    """
    _overlap(sides, True, output.chosen(), atlas)


def _overlap(sides: Sides, only: bool, form: str, atlas: Path | None) -> None:
    if (sides.concept is None) == (sides.concepts is None and sides.supercategory is None):
        raise UsageError(
            "give one --concept; or --concepts all, --concepts dog,cat, --supercategory animal for a row each"
        )
    (_show_concepts if sides.concept is None else _show_neurons)(sides, only, form, atlas)


def _show_neurons(sides: Sides, only: bool, form: str, atlas: Path | None) -> None:
    from atlas.api.atlas import Atlas

    there = Atlas(resolve(atlas))
    ask = there.only if only else there.shared
    found = ask(str(sides.concept), top=sides.top, **sides.names(), **sides.asked())
    note_assumed(found.neurons.provenance)
    s = found.statistics
    more = {"statistics": s, "matched": found.matched, "verdict": found.verdict}
    more["provenance"] = found.neurons.provenance
    show(found.neurons.to_arrow().slice(0, sides.limit), form, more=more)
    first, second = found.between
    what = f"in the top of {first} and not of {second}" if only else f"in the tops of both {first} and {second}"
    say(f"{s['only' if only else 'shared']} of {s['top']} {what}")
    if (s["chosen"] or 0) < (s["top"] or 0):
        say(f"  (the top of {first} has {s['chosen']}: no other neuron of its map has a score above 0)")
    for line in null_lines(s, found.matched):
        say(line)
    say(f"verdict: {found.verdict}")


def null_lines(statistics: dict[str, float | None], matched: str) -> list[str]:
    """What each null expects, one line a null."""
    from atlas.stats.overlap_null import ANSWERS, CHANCE, MATCHED, MISMATCHED

    pairs = int(statistics[f"{MISMATCHED}pairs"] or 0)
    said = {CHANCE: "any neurons", MATCHED: f"neurons of the same {matched}"}
    said[MISMATCHED] = f"other concepts' neurons ({pairs} pairs)"
    said[ANSWERS] = "the same answers behind other prompts"
    lines = []
    for prefix, name in said.items():
        if statistics.get(f"{prefix}expected") is None:
            continue
        expected, lift, p = (statistics[prefix + key] for key in ("expected", "lift", "p_value"))
        shown = "" if lift is None else f"lift {lift:.3g}, "
        lines.append(f"  by {name}: {expected:.2g} expected, {shown}p = {p:.2g}")
    return lines


def _show_concepts(sides: Sides, only: bool, form: str, atlas: Path | None) -> None:
    from atlas.api.atlas import Atlas
    from atlas.query.map_spec import MapSpec
    from atlas.stats import overlap

    side, between, one = overlap.sides(**sides.asked())
    listed = () if sides.concepts in (None, "all") else words(sides.concepts)
    which = MapSpec(supercategory=sides.supercategory, **sides.names(), **one)
    found = Atlas(resolve(atlas)).overlaps(which, listed, side=side, between=between, only=only, top=sides.top)
    note_assumed(found.provenance)
    show(found.rows.slice(0, sides.limit), form, more={"matched": found.matched, "provenance": found.provenance})
    matched = f"; matched: neurons of the same {found.matched}" if found.matched else ""
    say(
        f"{found.rows.num_rows} concepts; q_value is the false discovery rate over them{matched}; "
        "mismatched: neurons of the other concepts"
    )
    if found.left_out:
        say(f"left out, with a map of {' or '.join(between)} alone: {', '.join(found.left_out)}")


@grouped
def layers(
    *,
    concept: OneConcept = None,
    of: Of = None,
    method: Method = None,
    methods: Annotated[str | None, typer.Option("--methods", help="One method, or two and what both choose.")] = None,
    source: Source = None,
    sources: Annotated[str | None, typer.Option("--sources", help="One source, or two and what both have.")] = None,
    target: Target = None,
    targets: Annotated[str | None, typer.Option("--targets", help="One target, or two and what both have.")] = None,
    reduce: Reduce = None,
    model: Model = None,
    dataset: Dataset = None,
    run: Run = None,
    select: Select = None,
    top: Annotated[int | None, typer.Option("--top", "-n", min=1, help="How many neurons. [default: 40]")] = None,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """How a concept's neurons lie over the layers: count, share, cumulative share, enrichment over an even spread.

    With --sources, --targets or --methods, of two selections and of the neurons in both; with --of, how saved neurons
    lie.

    Example: atlas layers --concept dog --top 40

    Example: atlas layers --concept dog --sources image,text --select percentile:99
    """
    from atlas.api.atlas import Atlas
    from atlas.query.find import NeuronQuery
    from atlas.query.map_spec import MapSpec
    from atlas.query.request import build_filter
    from atlas.query.selection_rules import Rule

    form = output.chosen()
    if select and top:
        raise UsageError("--top N is --select top:N; give one of them")
    if (concept is None) == (of is None):
        raise UsageError("give --concept dog, or saved neurons with --of 'dog & cat'")
    rule = Rule.parse(select) if select else Rule("top", top or 40)
    there = Atlas(resolve(atlas))
    if of is not None:
        found = there.selection(of)
        _show_layers({of: there.layers(found)}, form, {of: found}, {})
        return
    common = None
    one, several = _one_or_two(method=(method, methods), source=(source, sources), target=(target, targets))
    if not several:
        names = {"concept": concept, **one, "reduce": reduce, "model": model, "dataset": dataset, "run": run}
        found, _ = there.ask(NeuronQuery(build_filter(names), rule, limit=None))
        sets = {str(found.provenance["maps"][0]["source"]): found}
    else:
        [(name, two)] = several.items()
        which = MapSpec(
            concept,
            one["method"],
            source=one["source"],
            target=one["target"],
            reduce=reduce,
            model=model,
            dataset=dataset,
            run=run,
        )
        sets = there.select_each(which, name, two, rule)
        found = sets[two[0]]
        sets["both"] = found & sets[two[1]]
        common = there.common(which, name, two, rule)
    note_assumed(found.provenance)
    more = {"statistics": common.statistics, "matched": common.matched, "verdict": common.verdict} if common else {}
    _show_layers({name: there.layers(neurons) for name, neurons in sets.items()}, form, sets, more)
    if common is not None:
        say(f"{len(sets['both'])} in both")
        for line in null_lines(common.statistics, common.matched):
            say(line)
        say(f"verdict: {common.verdict}")


def _require_one_form(**given: tuple[str | None, str | None]) -> None:
    """Raise UsageError where both `--source` and `--sources` were given, or both of another such pair."""
    for name, (single, plural) in given.items():
        if single and plural:
            raise UsageError(f"--{name} and --{name}s both say what {name} is; give one of them")


def _one_or_two(**given: tuple[str | None, str | None]) -> tuple[dict[str, str | None], dict[str, Sequence[str]]]:
    """What is one, and the one thing that is two: of what was given as --source X or --sources X,Y, and so on."""
    one, several = {}, {}
    _require_one_form(**given)
    for name, (single, plural) in given.items():
        found = words(plural) if plural else []
        if plural and not found:
            raise UsageError(f"--{name}s '{plural}' names nothing; give one, or two")
        if len(found) > 1:
            several[name] = found
        one[name] = single or (found[0] if len(found) == 1 else None)
    if len(several) > 1 or any(len(two) != 2 or len(set(two)) != 2 for two in several.values()):
        raise UsageError(
            "give two --sources, for example image,text, or two --targets or --methods; not several of these"
        )
    return one, several


def _show_layers(tables: dict[str, Any], form: str, sets: dict[str, Any], statistics: dict[str, Any]) -> None:
    import pyarrow as pa

    named = [table.add_column(0, "set", pa.array([name] * len(table), pa.string())) for name, table in tables.items()]
    more = {"neurons": {name: len(s) for name, s in sets.items()}, "provenance": sets[list(sets)[-1]].provenance}
    more |= statistics
    show(pa.concat_tables(named), form, more=more)


@grouped
def agreement(
    *,
    reference: Annotated[
        str | None, typer.Option("--reference", help="The method the others are compared with. [default: ablation]")
    ] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Every two methods, with 95 % intervals.")] = False,
    concept: Annotated[str | None, typer.Option("--concept", "-c", help="One concept instead of all.")] = None,
    source: Source = None,
    target: Target = None,
    reduce: Reduce = None,
    model: Model = None,
    dataset: Dataset = None,
    run: Run = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the intervals' resampling.")] = 0,
    output: Output,
    atlas: AtlasPath = None,
) -> None:
    """How well each method's ranking of neurons follows exact ablation's: rank correlation and overlap of the tops.

    With --pairs, how far every two methods agree, with 95 % bootstrap intervals: over concepts, or over the neurons
    of the one --concept.

    Example: atlas agreement --source image

    Example: atlas agreement --pairs --concept dog --source text
    """
    from atlas.api.atlas import Atlas
    from atlas.api.compare import REFERENCE
    from atlas.query.map_spec import MapSpec

    form = output.chosen()
    there = Atlas(resolve(atlas))
    if pairs and reference is not None:
        raise UsageError("--pairs compares all methods with each other; leave out --reference")
    against = reference or REFERENCE
    which = MapSpec(concept, None, source=source, target=target, reduce=reduce, model=model, dataset=dataset, run=run)
    table, assumed = there.method_agreement_for(which, seed) if pairs else there.agreement_for(which, reference)
    if not table.num_rows and pairs:
        raise UsageError("no run has maps of two methods; ingest with --methods ablation,contribution")
    if not table.num_rows:
        raise UsageError(
            f"no map of another method can be compared with '{against}'; "
            f"ingest with --methods {against},contribution (`atlas concepts` lists what is stored)"
        )
    note_assumed({"assumed": assumed})
    more: dict[str, Any] = {"seed": seed} if pairs else {"reference": against}
    show(table, form, more=more | {"assumed": list(assumed)})
