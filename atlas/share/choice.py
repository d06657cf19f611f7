"""What of an atlas is meant to go into a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from atlas.edits.reference_values import maps_of
from atlas.errors import UsageError, unknown
from atlas.query.filters import fits
from atlas.share.portable import portable_model

OF_MAPS = ("concept", "method", "source", "target", "reduce")


@dataclass(frozen=True, slots=True)
class Choice:
    """What of an atlas goes into a bundle: each field the names or patterns that are meant, none for all.

    run, model, dataset, kind: choose whole runs. concept, method, source, target, reduce: choose maps, each run of
    which is then written as an extract. edits: whether edits and selections come along: those of the runs' models, and
    where maps are chosen those that came from such maps alone.
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

    def said(self) -> dict[str, Any] | None:
        """As bundle.json has it: what was chosen, or None for everything."""
        found: dict[str, Any] = {k: sorted(v) for k, v in asdict(self).items() if k != "edits" and v}
        return (found | ({} if self.edits else {"edits": False})) or None

    def of_maps(self) -> dict[str, list[str]]:
        return {name: sorted(getattr(self, name)) for name in OF_MAPS if getattr(self, name)}


def _matches(name: str | None, asked: Iterable[str]) -> bool:
    return name is not None and any(fits(name, word) for word in asked)


def chosen(manifests: Mapping[str, dict[str, Any]], choice: Choice) -> dict[str, dict[str, Any]]:
    """The runs that `run`, `model`, `dataset` and `kind` mean."""
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
        mine = [run for run in manifests if run.startswith(prefix)]
        if len(mine) != 1:
            raise unknown("finished run", prefix, [r[:8] for r in manifests], "atlas runs")
    kept = {}
    for run, manifest in manifests.items():
        of_run = not choice.run or any(run.startswith(prefix) for prefix in choice.run)
        names = ("model", "dataset", "kind")
        if of_run and all(not getattr(choice, n) or _matches(about[run][n], getattr(choice, n)) for n in names):
            kept[run] = manifest
    if not kept and (manifests or choice.said()):
        raise UsageError("no finished run is all of this; `atlas runs` lists them")
    return kept


def meant(name: str, value: str, asked: Iterable[str]) -> bool:
    return _matches(value, asked) or (name == "method" and _matches(value.partition(".")[0], asked))


def of_chosen(provenance: Mapping[str, Any], concept: str | None, choice: Choice) -> bool:
    """Whether an edit, or a selection, came from the chosen maps alone, or where no map is behind it, is of a concept
    that is chosen. concept: the edit's."""
    asked = choice.of_maps()
    maps = list(maps_of(provenance))
    if not maps:
        return "concept" not in asked or (concept is not None and _matches(concept, asked["concept"]))
    return all(meant(name, str(one[name]), words) for one in maps for name, words in asked.items() if name in one)
