"""What a neuron's page needs for heatmaps: whether there are any, above which percentile, beside which concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from atlas.neurons import LANGUAGE
from atlas.questions.neuron import Profile
from cli.web.asking import Asking
from cli.web.heat import percentile_of

IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Heat:
    """shown: whether the pictures have maps. problem: why not, and what to type. address: of the neuron. percentile:
    above which a map is shown; asked: whether the address says so. concept: compared with; concepts: to choose from."""

    shown: bool = False
    problem: str | None = None
    address: str = ""
    percentile: str = "95"
    asked: bool = False
    concept: str | None = None
    concepts: Sequence[str] = ()


def heat_of(asking: Asking, profile: Profile, given: Mapping[str, str]) -> Heat:
    """Of a neuron's page. given: the parameters of its address: `percentile`, `concept`.

    Raises:
        UsageError: a percentile that is none.
    """
    pictures = [row for row in profile.exemplars.to_pylist() if row["source"] == IMAGE]
    if not pictures or profile.neuron.component != LANGUAGE:
        return Heat()
    if asking.worker is None:
        return Heat(problem=f"`atlas serve --model {profile.model}` shows heatmaps on these pictures.")
    if asking.worker.name != profile.model:
        return Heat(problem=f"Heatmaps are shown of neurons of {asking.worker.name}, which this server has loaded.")
    shown = sorted({str(concept) for row in pictures for concept in row["concepts"] or ()})
    concepts = list(dict.fromkeys([*(str(row["concept"]) for row in profile.ranked()), *shown]))
    # Of those that a picture shows, the one that it is best at: of another there is nothing to compare with.
    concept = given.get("concept") or next((name for name in concepts if name in shown), None)
    if concept is not None and concept not in concepts:
        concepts.insert(0, concept)
    percentile = percentile_of(given.get("percentile"))
    return Heat(True, None, str(profile.neuron), f"{percentile:g}", "percentile" in given, concept, concepts)
