"""Which things COCO's human captions mention: words where they are plain, boxes where they have another sense."""

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
from ingest.datasets._files import SHOWN, split_of

LARGEST_ID = 2**31 - 1
"""Of a category, as the atlas stores it; one that is larger, or a text, only tells the dataset's categories apart."""
DOUBTFUL = 4
"""Captions that must say a word before it is told that most of their pictures have no box of it."""


def concepts_of(categories: Sequence[Mapping[str, Any]]) -> dict[Id, Concept]:
    """A concept for each category, by its id; LVIS's categories bring synonyms."""
    words: dict[str, tuple[str, ...]] = {}
    for row in categories:
        given = row.get("synonyms")
        more = [text for text in given if isinstance(text, str)] if isinstance(given, list) else []
        words[row["name"]] = forms(row["name"], more)
    longer = containing(words)
    found: dict[Id, Concept] = {}
    for row in categories:
        name, number = row["name"], row["id"]
        other = tuple(dict.fromkeys((*unlike(name), *sorted(longer[name]))))
        above = row.get("supercategory") or None
        own = number if isinstance(number, int) and abs(number) <= LARGEST_ID else None
        found[number] = Concept(name, words[name], above, own, other)
    return found


class CaptionMentions:
    """What the captions of some pictures mention.

    picture: the first that each caption stands under. mentions: its concepts, in order, of those that are wanted. A
    phrase counts as a whole: "hot dog" is not a dog, even where hot dogs are not wanted. A word with another sense
    ("orange") or of several concepts counts where a picture of the caption shows the concept; `elsewise` has the
    captions where none does.
    """

    def __init__(
        self,
        captions: Mapping[Id, Sequence[str]],
        every: Iterable[Concept],
        wanted: Mapping[str, Concept],
        shown: Mapping[Id, Sequence[str]],
    ):
        self.by_picture = captions
        self.mentions: dict[str, list[str]] = {}
        self.elsewise: dict[str, list[str]] = defaultdict(list)
        self._unboxed: dict[str, list[str]] = defaultdict(list)
        self._told: set[str] = set()
        self._boxed: dict[str, set[str]] = defaultdict(set)
        self.picture: dict[str, Id] = {}
        for number, texts in captions.items():
            for text in texts:
                self.picture.setdefault(text, number)
                self._boxed[text] |= set(shown[number])
        meant: dict[str, list[str]] = defaultdict(list)
        phrases: list[str] = []
        for concept in every:
            for form in concept.forms:
                meant[_spaced(form)].append(concept.name)
            phrases += [phrase for phrase in concept.unlike if not phrase.isalpha()]
        search = pattern([*meant, *phrases])
        for text in self._boxed:
            said = dict.fromkeys(_spaced(form) for form in search.findall(text))
            names = [name for form in said for name in self._meant(text, form, meant.get(form, ()), wanted)]
            self.mentions[text] = list(dict.fromkeys(names))
        self._often = Counter(name for names in self.mentions.values() for name in names)

    def _meant(self, text: str, form: str, names: Sequence[str], wanted: Mapping[str, Concept]) -> list[str]:
        """The concepts that a form stands for in a caption."""
        found = [name for name in dict.fromkeys(names) if name in wanted]
        boxed = [name for name in found if name in self._boxed[text]]
        if form in AMBIGUOUS or len(set(names)) > 1:
            for name in found if not boxed else ():
                self.elsewise[name].append(text)
            return boxed
        for name in found:
            if name not in boxed:
                self._unboxed[name].append(text)
        return found

    def tell(self, concepts: Sequence[str]) -> None:
        """Warn, once, of captions that were not taken for these concepts, and of words that mostly mean something
        else."""
        left, doubt = [], []
        for name in concepts:
            away, without = self.elsewise.get(name, []), self._unboxed.get(name, [])
            if away:
                left.append(f"{name} {len(away)}x, as in {away[0]!r}")
            of = self._often[name]
            if of >= DOUBTFUL and 2 * len(without) > of:
                doubt.append(f"{name} in {len(without)} of {of}, as in {without[0]!r}")
        self._warn("left out, as their word has another sense and no box says that the thing is there", left)
        self._warn("whose word no box of their pictures shows, most of all that have it (is it meant?)", doubt)

    def _warn(self, what: str, told: Sequence[str]) -> None:
        more = f"; and {len(told) - SHOWN} more concepts" if len(told) > SHOWN else ""
        message = f"captions {what}: {'; '.join(told[:SHOWN])}{more}"
        if told and message not in self._told:
            self._told.add(message)
            warnings.warn(message, AtlasWarning, 5)

    def splits(self) -> dict[str, str]:
        """Each caption's split: held out where one of its pictures is."""
        found: dict[str, str] = {}
        for number, texts in self.by_picture.items():
            for text in texts:
                found[text] = HELD_OUT if HELD_OUT in (split_of(number), found.get(text)) else FIND
        return found


def _spaced(form: str) -> str:
    """A form as it is compared: small letters, parts with spaces between."""
    return " ".join(re.sub(rf"[_{HYPHENS}]", " ", form.lower()).split())
