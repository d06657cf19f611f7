"""The choice of what goes from an atlas into a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from atlas.errors import UsageError, unknown
from atlas.query.filters import fits
from atlas.query.provenance import Provenance, maps_of
from atlas.share.portable import portable_model

OF_MAPS = ("concept", "method", "source", "target", "reduce")


@dataclass(frozen=True, slots=True)
class Choice:
    """What goes from an atlas into a bundle: each field has names or patterns, none for all.

    run, model, dataset, kind: choose whole runs. concept, method, source, target, reduce: choose maps; their runs are
    then written as extracts. edits: whether to include edits and selections: those of the runs' models, and where maps
    are chosen, only those that came from such maps.
    """

    run: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()
    concept: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    reduce: tuple[str, ...] = ()
    edits: bool = True

    def as_json(self) -> dict[str, Any] | None:
        """The choice as bundle.json has it; None for everything."""
        fields: dict[str, Any] = {k: sorted(v) for k, v in asdict(self).items() if k != "edits" and v}
        return (fields | ({} if self.edits else {"edits": False})) or None

    def of_maps(self) -> dict[str, list[str]]:
        """The fields that choose maps, with their names or patterns."""
        return {name: sorted(getattr(self, name)) for name in OF_MAPS if getattr(self, name)}


def _matches(name: str | None, patterns: Iterable[str]) -> bool:
    return name is not None and any(fits(name, word) for word in patterns)


def chosen_runs(manifests: Mapping[str, dict[str, Any]], choice: Choice) -> dict[str, dict[str, Any]]:
    """The runs that match `run`, `model`, `dataset` and `kind`."""
    about = {
        run: {
            "model": portable_model(manifest["model"])["name"] if manifest["model"] else None,
            "dataset": (manifest["dataset"] or {}).get("name"),
            "kind": manifest["run"]["kind"],
        }
        for run, manifest in manifests.items()
    }
    for name in ("model", "dataset", "kind"):
        known = {str(of[name]) for of in about.values() if of[name]}
        for word in getattr(choice, name):
            if not any(_matches(k, [word]) for k in known):
                raise unknown(name, word, known, "atlas runs")
    for prefix in choice.run:
        matching = [run for run in manifests if run.startswith(prefix)]
        if len(matching) != 1:
            raise unknown("finished run", prefix, [r[:8] for r in manifests], "atlas runs")
    selected = {}
    for run, manifest in manifests.items():
        of_run = not choice.run or any(run.startswith(prefix) for prefix in choice.run)
        names = ("model", "dataset", "kind")
        if of_run and all(not getattr(choice, n) or _matches(about[run][n], getattr(choice, n)) for n in names):
            selected[run] = manifest
    if not selected and (manifests or choice.as_json()):
        raise UsageError("no finished run matches all of this; `atlas runs` lists them")
    return selected


def matches(name: str, value: str, patterns: Iterable[str]) -> bool:
    """Whether a map's value of a field fits one of the patterns; a method's parts fit with it."""
    return _matches(value, patterns) or (name == "method" and _matches(value.partition(".")[0], patterns))


def from_chosen_maps(provenance: Provenance, concept: str | None, choice: Choice) -> bool:
    """Whether an edit, or a selection, came only from chosen maps, or, if it came from no map, has a chosen concept.
    concept: the edit's."""
    patterns_by_name = choice.of_maps()
    maps: list[Mapping[str, Any]] = [dict(origin) for origin in maps_of(provenance)]
    if not maps:
        return "concept" not in patterns_by_name or (
            concept is not None and _matches(concept, patterns_by_name["concept"])
        )
    return all(
        matches(name, str(source_map[name]), words)
        for source_map in maps
        for name, words in patterns_by_name.items()
        if name in source_map
    )
