"""The words people use for COCO's categories: plurals and a few synonyms, as surface forms to look for.

Kept modest on purpose: a form must nearly always mean the category. So "glass" is no form of wine glass, "phone" is
one of cell phone, and "orange" stays although it is a colour too, since it is the category's name.
"""

from __future__ import annotations

import re

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
"""Words whose plural no rule gives; equal to the word where it has none of its own."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": ("man", "woman", "child", "boy", "girl", "lady", "guy"),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
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


def plural(form: str) -> str:
    """The English plural of a form's last word: "wine glass" -> "wine glasses", "person" -> "people"."""
    *before, word = form.split(" ")
    if word in PLURALS:
        many = PLURALS[word]
    elif re.search(r"(s|x|z|ch|sh)$", word):
        many = f"{word}es"
    elif re.search(r"[^aeiou]y$", word):
        many = f"{word[:-1]}ies"
    else:
        many = f"{word}s"
    return " ".join([*before, many])


def forms(name: str) -> tuple[str, ...]:
    """The surface forms of a category: its name first, then plurals and synonyms, lower case, each once.

    A name of one's own such as "Golden_Retriever" is also looked for with spaces.
    """
    first = " ".join(name.lower().split())
    spaced = " ".join(re.sub(r"[_-]+", " ", first).split())
    found = [first]
    for form in (spaced, *SYNONYMS.get(spaced, ())):
        found += [form, plural(form)]
    if spaced == "person":
        found.append("persons")
    return tuple(dict.fromkeys(found))
