"""The words people use for COCO's categories: plurals and a few synonyms, as surface forms to look for.

Kept short: a form must nearly always mean the category. So "glass" is not a form of wine glass, but "phone" is one of
cell phone. A category's own name stays even where it has another sense; then the boxes decide (AMBIGUOUS).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

PLURALS = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
    "sheep": "sheep",
    "broccoli": "broccoli",
    "scissors": "scissors",
    "skis": "skis",
    "cattle": "cattle",
    "lady": "ladies",
    "fish": "fish",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "wolf": "wolves",
    "leaf": "leaves",
    "loaf": "loaves",
    "shelf": "shelves",
    "scarf": "scarves",
    "deer": "deer",
    "tomato": "tomatoes",
    "potato": "potatoes",
}
"""Words with an irregular plural; equal to the word where it has none of its own."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": ("man", "woman", "child", "boy", "girl", "lady", "guy"),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike", "motor bike", "dirt bike"),
    "airplane": ("plane", "aeroplane", "jet"),
    "traffic light": ("stoplight", "stop light"),
    "cow": ("cattle",),
    "dog": ("puppy",),
    "cat": ("kitten",),
    "handbag": ("purse",),
    "tie": ("necktie",),
    "skis": ("ski",),
    "sports ball": ("ball",),
    "baseball glove": ("mitt",),
    "donut": ("doughnut",),
    "couch": ("sofa",),
    "dining table": ("table",),
    "tv": ("television",),
    "cell phone": ("cellphone", "phone"),
    "refrigerator": ("fridge",),
    "teddy bear": ("stuffed bear",),
    "hair drier": ("hair dryer", "hairdryer"),
    "hot dog": ("hotdog",),
    "potted plant": ("houseplant",),
}


UNLIKE: dict[str, tuple[str, ...]] = {
    "airplane": ("jet ski", "jet stream", "plane tree"),
    "apple": ("big apple", "pine apple"),
    "bear": ("teddy bear", "stuffed bear", "gummy bear"),
    "bed": ("flower bed", "truck bed"),
    "bicycle": ("motor bike", "dirt bike", "bike rack", "bike lane", "bike path"),
    "bird": ("bird bath", "bird cage", "bird feeder", "bird house"),
    "book": ("book shelf", "book case"),
    "bowl": ("cement bowl", "concrete bowl", "skate bowl", "skating bowl", "toilet bowl", "super bowl"),
    "bus": ("bus stop", "bus station"),
    "car": ("train car", "cable car", "street car", "car park"),
    "cat": ("cat fish", "cat tail"),
    "cell phone": ("phone booth", "pay phone"),
    "chair": ("chair lift", "wheel chair"),
    "clock": ("o'clock", "o\u2019clock"),
    "cow": ("cow boy", "cow girl"),
    "cup": ("world cup", "cup cake"),
    "dining table": ("pool table", "table tennis", "table cloth"),
    "dog": ("hot dog", "chili dog", "corn dog", "prairie dog", "dog house"),
    "horse": ("saw horse", "sea horse", "horse shoe"),
    "kite": ("kite board", "kite boarder", "kite boarding", "kite surfer", "kite surfing"),
    "mouse": ("mouse pad",),
    "orange": ("orange juice",),
    "person": ("gingerbread man", "man hole", "snow man"),
    "sheep": ("sheep dog", "sheep skin"),
    "skis": ("jet ski", "water ski", *(f"ski {what}" for what in ("jacket", "lift", "mask", "resort", "slope"))),
    "sports ball": ("ball field", "ball game", "ball gown", "ball park", "ball player", "ball room"),
    "tie": ("tie dye",),
    "toilet": ("toilet paper",),
    "train": ("train track", "train station", "train platform"),
}
"""Phrases that contain a form of the category and mean something else."""

AMBIGUOUS = frozenset(
    "bear bears book books bowl fork jet jets mouse orange remote sink sinks tie ties train trains".split(" ")  # noqa: SIM905
)
"""Forms with another common sense (a colour, a verb, a place): they mean the thing only where a box shows it."""


def plural(form: str) -> str:
    """The English plural of a form's last word: "wine glass" -> "wine glasses", "person" -> "people"."""
    *first_words, word = form.split(" ")
    if word in PLURALS:
        plural_word = PLURALS[word]
    elif re.search(r"(s|x|z|ch|sh)$", word):
        plural_word = f"{word}es"
    elif re.search(r"[^aeiou]y$", word):
        plural_word = f"{word[:-1]}ies"
    else:
        plural_word = f"{word}s"
    return " ".join([*first_words, plural_word])


def forms(name: str, synonyms: Sequence[str] = ()) -> tuple[str, ...]:
    """The surface forms of a category: its name first, then plurals and synonyms, lower case, each once.

    A name such as "Golden_Retriever" is also looked for with spaces, LVIS's "bow_(weapon)" without its parentheses, and
    one made of several names ("wall; building") by each of them. synonyms: more names.
    """
    ordered_forms = [" ".join(name.lower().split())]
    for raw_name in (*re.split(r"[;,/]", name), *synonyms):
        spaced = spaced_name(raw_name)
        for form in (spaced, *SYNONYMS.get(spaced, ())) if spaced else ():
            ordered_forms += [form, plural(form)]
        if spaced == "person":
            ordered_forms.append("persons")
    return tuple(dict.fromkeys(ordered_forms))


def spaced_name(name: str) -> str:
    """ "Bow_(weapon)" -> "bow"."""
    return " ".join(re.sub(r"[_-]+", " ", re.sub(r"\(.*?\)", " ", name.lower())).split())


def unlike(name: str) -> tuple[str, ...]:
    """The phrases of UNLIKE for a category, and their plurals."""
    return tuple(form for phrase in UNLIKE.get(spaced_name(name), ()) for form in (phrase, plural(phrase)))


def containing(forms_by_name: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """For each category, the longer forms of other categories that contain one of its own forms."""
    longer_forms_of: dict[str, set[str]] = defaultdict(set)
    for own_forms in forms_by_name.values():
        for form in own_forms:
            words = form.split()
            for start, end in combinations(range(len(words) + 1), 2):
                if end - start < len(words):
                    longer_forms_of[" ".join(words[start:end])].add(form)
    return {
        name: {longer for form in own_forms for longer in longer_forms_of[form]} - set(own_forms)
        for name, own_forms in forms_by_name.items()
    }
