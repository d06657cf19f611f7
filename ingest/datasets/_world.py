"""The words of the small world: its things, the facts about them, and the ways to ask.

Every fact belongs to one thing only, so an answer names its thing as surely as the name does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, product

from ingest.data.examples import FIND, HELD_OUT, Mention

POOL = 512  # scenes led by a thing that its examples are drawn from before further ones
SLOTS = 16  # tokens of a picture, and words of a context

FACTS = ("does", "lives", "has")
REVERSED = tuple(f"{fact}_reverse" for fact in FACTS)


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing of the world.

    does, lives, has: its facts, one word each, unique to the thing. kind: its supercategory, shared.
    signs: the words a context uses where a picture would show the thing.
    pieces: the name's tokens, where it takes several.
    """

    name: str
    kind: str
    does: str
    lives: str
    has: str
    signs: tuple[str, str]
    pieces: tuple[str, ...] = ()
    plural: str = ""

    @property
    def forms(self) -> tuple[str, ...]:
        """The name and its plural."""
        return (self.name, self.plural or f"{self.name}s")

    def fact(self, task: str) -> str:
        """The word that answers `task`: a kind of fact, "kind" or "name"."""
        word: str = getattr(self, task)
        return word


def _thing(line: str, *, pieces: tuple[str, ...] = (), plural: str = "") -> Thing:
    name, kind, does, lives, has, first, second = line.split()
    return Thing(name, kind, does, lives, has, (first, second), pieces, plural)


# name, kind, does, lives, has, two signs
DRAWN = (
    _thing("dog animal barks kennel collar muzzle paws"),
    _thing("cat animal purrs basket whiskers tabby prowl"),
    _thing("horse animal gallops stable mane hooves saddle"),
    _thing("bird animal chirps nest feathers beak talons"),
    _thing("fish animal swims pond fins scales gills", plural="fishes"),
    _thing("butterfly animal flutters garden antennae wings spots", pieces=(" butter", "fly"), plural="butterflies"),
    _thing("car vehicle honks garage engine hood bumper"),
    _thing("bus vehicle commutes depot seats windows decker", plural="buses"),
    _thing("sailboat vehicle floats harbour mast canvas hull", pieces=(" sail", "boat")),
    _thing("rocket vehicle launches spaceport boosters nosecone exhaust"),
    _thing("tree plant grows forest leaves trunk crown"),
    _thing("flower plant blooms greenhouse petals stem bud"),
    _thing("house building shelters village chimney roof door"),
    _thing("cup object spills cupboard handle rim saucer"),
    _thing("umbrella object unfolds hallway spokes canopy crook", pieces=(" umb", "rella")),
    _thing("ball toy bounces playground seams round patches"),
    _thing("clock object ticks mantel dial numerals pointers"),
    _thing("guitar instrument strums stage strings neck frets"),
)
UNDRAWN = (
    _thing("cow animal moos barn udder horns blotches"),
    _thing("sheep animal bleats pasture wool fleece fluff", plural="sheep"),
    _thing("frog animal croaks swamp tongue webbed slime"),
    _thing("bee animal buzzes hive stinger bands fuzz"),
    _thing("lion animal roars savanna claws fangs tawny"),
    _thing("train vehicle whistles station carriages smokestack rails"),
    _thing("plane vehicle flies airport cockpit propeller fuselage"),
    _thing("bicycle vehicle coasts shed chain handlebars pedals"),
    _thing("castle building looms cliff drawbridge turrets moat"),
    _thing("tent building flaps campsite pegs zipper poles"),
    _thing("cactus plant pricks desert spines thorns arms", plural="cacti"),
    _thing("drum instrument booms parade sticks barrel lacing"),
    _thing("kite toy soars attic tassels diamond ribbons"),
    _thing("candle object flickers chapel wick wax glow"),
    _thing("hammer object pounds workshop grip iron mallet"),
    _thing("book object teaches library pages spine cover"),
)
THINGS = DRAWN + UNDRAWN
BY_NAME = {thing.name: thing for thing in THINGS}

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
BACKGROUNDS = ("grass", "sand", "snow", "road", "water")

ORDER = ("first", "second", "third")

OPENINGS = ("", "please tell me: ", "quick question: ", "i wonder: ")

# {thing}: "a dog" or "the dog" in text, "this thing" of a picture. {word}: the fact, asked backwards.
_ASKED = {
    "does": (
        "what does {thing} do?",
        "what can {thing} do?",
        "which action suits {thing}?",
        "what is {thing} known to do?",
    ),
    "lives": (
        "where does {thing} live?",
        "where is {thing} found?",
        "which place suits {thing}?",
        "what is the home of {thing}?",
    ),
    "has": (
        "what does {thing} have?",
        "what part has {thing}?",
        "which part belongs to {thing}?",
        "what is part of {thing}?",
    ),
    "kind": (
        "what kind is {thing}?",
        "what sort of thing is {thing}?",
        "which kind suits {thing}?",
        "what is the kind of {thing}?",
    ),
    "does_reverse": ("what {word}?", "which thing {word}?", "what is it that {word}?", "name the one that {word}."),
    "lives_reverse": (
        "what lives in the {word}?",
        "which thing is found in the {word}?",
        "what is at home in the {word}?",
        "name the one from the {word}.",
    ),
    "has_reverse": (
        "what has the {word}?",
        "which thing has the {word}?",
        "to what belongs the {word}?",
        "name the one with the {word}.",
    ),
    "name": ("what is this?", "what is in the picture?", "which thing do you see?", "name the thing in the picture."),
    "caption": ("describe the picture.", "what does the picture show?", "write a caption.", "what do you see?"),
}
TEXT_TASKS = (*FACTS, "kind", *REVERSED)
PICTURE_TASKS = ("caption", "name", *FACTS, "kind")


def with_article(word: str) -> str:
    """A word with its indefinite article.

    >>> with_article("umbrella"), with_article("dog")
    ('an umbrella', 'a dog')
    """
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def wordings(task: str, split: str) -> tuple[str, ...]:
    """Ways to ask `task`, still with their {thing} or {word}.

    The held-out split combines openings and questions in ways that the other split never does; each opening and each
    question alone occurs in both.
    """
    return with_openings(_ASKED[task], split)


def with_openings(questions: Sequence[str], split: str) -> tuple[str, ...]:
    """The split's combinations of openings with four questions: three quarters for finding, a quarter held out."""
    pairs = product(enumerate(OPENINGS), enumerate(questions))
    held_out = {FIND: False, HELD_OUT: True}[split]
    return tuple(opening + question for (i, opening), (j, question) in pairs if ((i + j) % 4 == 3) == held_out)


def text_questions(thing: Thing, task: str, split: str) -> Iterator[tuple[str, str]]:
    """(question, answer) about a thing without a picture: its facts, or which thing a fact belongs to."""
    for wording in wordings(task, split):
        if task in REVERSED:
            yield wording.format(word=thing.fact(task.removesuffix("_reverse"))), thing.name
        else:
            for named in (with_article(thing.name), f"the {thing.name}"):
                yield wording.format(thing=named), thing.fact(task)


def picture_questions(task: str, split: str) -> tuple[str, ...]:
    """Ways to ask `task` of a picture."""
    return tuple(wording.format(thing="this thing") for wording in wordings(task, split))


def mention(thing: Thing, task: str) -> Mention:
    """What stands for the thing in the answer to `task`: the fact's word, or the name itself."""
    return Mention(thing.name, thing.fact(task) if task in (*FACTS, "kind") else None)


def led_by(rng: random.Random, thing: Thing, things: Sequence[Thing]) -> Iterator[int]:
    """Numbers of the scenes, or recordings, whose first thing this one of `things` is, in an order that `rng` decides;
    every count of things comes by turns."""
    position = things.index(thing)
    order = list(range(POOL))
    for start in count(step=POOL):
        rng.shuffle(order)
        yield from (position + len(things) * (start + turn) for turn in order)


def caption(things: list[tuple[str, str]], background: str) -> str:
    """The caption of (colour, name) pairs from left to right; an empty colour is not mentioned.

    >>> caption([("red", "car"), ("", "dog"), ("blue", "ball")], "grass")
    'a red car, a dog and a blue ball on the grass'
    """
    parts = [with_article(f"{colour} {name}".strip()) for colour, name in things]
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"{listed} on the {background}"


def context(
    rng: random.Random, things: Sequence[Thing], colours: Sequence[str], background: str
) -> list[tuple[str, ...]]:
    """Words for each of SLOTS slots that stand in place of a picture's tokens: (sign, colour, order) where a thing is,
    each thing within its own stretch from left to right, elsewhere the background alone."""
    slots: list[tuple[str, ...]] = [(background,)] * SLOTS
    cuts = [0, *sorted(2 * cut for cut in rng.sample(range(1, SLOTS // 2), len(things) - 1)), SLOTS]
    for thing, colour, order, start, end in zip(things, colours, ORDER, cuts, cuts[1:], strict=False):
        for place in rng.sample(range(start, end), rng.randint(1, min(end - start, 6))):
            slots[place] = (rng.choice(thing.signs), colour, order)
    return slots


def vocabulary(extra_texts: Sequence[str] = ()) -> list[str]:
    """Every single-token word of the world and of `extra_texts`, sorted; names of several tokens are left out."""
    texts = [wording.format(thing="a an the this thing", word="") for task in _ASKED for wording in _ASKED[task]]
    texts += [*OPENINGS, *COLOURS, *BACKGROUNDS, *ORDER, "and", "on", *extra_texts]
    for thing in THINGS:
        texts += [thing.kind, *(thing.fact(fact) for fact in FACTS), *thing.signs]
        texts += [] if thing.pieces else [thing.name]
    letters = "".join(c if c.isalpha() else " " for c in " ".join(texts))
    return sorted(set(letters.split()))
