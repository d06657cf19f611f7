"""Which concepts COCO's human captions mention: by unambiguous words, and by boxes where a word has another sense."""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atlas.errors import AtlasWarning
from ingest.data.examples import FIND, HELD_OUT, Concept
from ingest.data.targets import HYPHENS, pattern
from ingest.datasets._coco_rows import Id
from ingest.datasets._coco_words import AMBIGUOUS, containing, forms, unlike
from ingest.datasets._files import SHOWN

LARGEST_ID = 2**31 - 1
"""The largest category id that the atlas stores; larger ids, and texts, only tell the dataset's categories apart."""
DOUBTFUL = 4
"""How many captions must have a word before a warning says that most of their pictures have no box for it."""


def concepts_of(categories: Sequence[Mapping[str, Any]]) -> dict[Id, Concept]:
    """A concept for each category, by its id; LVIS's categories bring synonyms."""
    forms_by_name: dict[str, tuple[str, ...]] = {}
    for row in categories:
        synonyms = row.get("synonyms")
        extra_forms = [text for text in synonyms if isinstance(text, str)] if isinstance(synonyms, list) else []
        forms_by_name[row["name"]] = forms(row["name"], extra_forms)
    longer_forms = containing(forms_by_name)
    by_id: dict[Id, Concept] = {}
    for row in categories:
        name, category_id = row["name"], row["id"]
        unlike_phrases = tuple(dict.fromkeys((*unlike(name), *sorted(longer_forms[name]))))
        supercategory = row.get("supercategory") or None
        stored_id = category_id if isinstance(category_id, int) and abs(category_id) <= LARGEST_ID else None
        by_id[category_id] = Concept(name, forms_by_name[name], supercategory, stored_id, unlike_phrases)
    return by_id


class CaptionMentions:
    """Which concepts the captions of some pictures mention.

    picture: the first picture of each caption. mentions: each caption's chosen concepts, in order. A phrase counts as
    a whole: "hot dog" is not a dog, even where hot dogs are not chosen. A word with another sense ("orange"), or of
    several concepts, counts where a picture of the caption shows the concept; `elsewise` has the other captions.
    """

    def __init__(
        self,
        captions: Mapping[Id, Sequence[str]],
        all_concepts: Iterable[Concept],
        chosen: Mapping[str, Concept],
        shown_concepts: Mapping[Id, Sequence[str]],
    ):
        self.by_picture = captions
        self.mentions: dict[str, list[str]] = {}
        self.elsewise: dict[str, list[str]] = defaultdict(list)
        self._unboxed: dict[str, list[str]] = defaultdict(list)
        self._warned: set[str] = set()
        self._boxed: dict[str, set[str]] = defaultdict(set)
        self.picture: dict[str, Id] = {}
        for picture_id, texts in captions.items():
            for text in texts:
                self.picture.setdefault(text, picture_id)
                self._boxed[text] |= set(shown_concepts[picture_id])
        names_by_form: dict[str, list[str]] = defaultdict(list)
        phrases: list[str] = []
        for concept in all_concepts:
            for form in concept.forms:
                names_by_form[_spaced(form)].append(concept.name)
            phrases += [phrase for phrase in concept.unlike if not phrase.isalpha()]
        search = pattern([*names_by_form, *phrases])
        for text in self._boxed:
            spaced_forms = dict.fromkeys(_spaced(form) for form in search.findall(text))
            names = [
                name for form in spaced_forms for name in self._meant(text, form, names_by_form.get(form, ()), chosen)
            ]
            self.mentions[text] = list(dict.fromkeys(names))
        self._often = Counter(name for names in self.mentions.values() for name in names)

    def _meant(self, text: str, form: str, names: Sequence[str], chosen: Mapping[str, Concept]) -> list[str]:
        """The concepts that a form stands for in a caption."""
        chosen_names = [name for name in dict.fromkeys(names) if name in chosen]
        boxed_names = [name for name in chosen_names if name in self._boxed[text]]
        if form in AMBIGUOUS or len(set(names)) > 1:
            for name in chosen_names if not boxed_names else ():
                self.elsewise[name].append(text)
            return boxed_names
        for name in chosen_names:
            if name not in boxed_names:
                self._unboxed[name].append(text)
        return chosen_names

    def warn(self, concepts: Sequence[str]) -> None:
        """Warn, once, of captions that were left out for these concepts, and of words that mostly mean something
        else."""
        left_out, doubtful = [], []
        for name in concepts:
            unboxed_ambiguous, unboxed = self.elsewise.get(name, []), self._unboxed.get(name, [])
            if unboxed_ambiguous:
                left_out.append(f"{name} {len(unboxed_ambiguous)}x, as in {unboxed_ambiguous[0]!r}")
            total = self._often[name]
            if total >= DOUBTFUL and 2 * len(unboxed) > total:
                doubtful.append(f"{name} in {len(unboxed)} of {total}, as in {unboxed[0]!r}")
        self._warn("left out, as their word has another sense and no box shows the thing", left_out)
        self._warn("with a word that no box confirms, most of all captions with that word (is it meant?)", doubtful)

    def _warn(self, subject: str, items: Sequence[str]) -> None:
        remainder = f"; and {len(items) - SHOWN} more concepts" if len(items) > SHOWN else ""
        message = f"captions {subject}: {'; '.join(items[:SHOWN])}{remainder}"
        if items and message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, AtlasWarning, 5)

    def splits(self, split_by_picture: Mapping[Id, str]) -> dict[str, str]:
        """Each caption's split: held out where any of its pictures is."""
        split_by_caption: dict[str, str] = {}
        for picture_id, texts in self.by_picture.items():
            for text in texts:
                split_by_caption[text] = (
                    HELD_OUT if HELD_OUT in (split_by_picture[picture_id], split_by_caption.get(text)) else FIND
                )
        return split_by_caption


def _spaced(form: str) -> str:
    """A form as it is compared: lower case, its parts separated by single spaces."""
    return " ".join(re.sub(rf"[_{HYPHENS}]", " ", form.lower()).split())
