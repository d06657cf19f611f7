"""coco: photographs with masks and human captions, from any folder in COCO's form.

    PATH/annotations/instances*.json  captions*.json (optional)
    PATH/images/*.jpg, or images/val2017/, train2017/, val2017/, ...

or as others write it: annotations/lvis*.json (LVIS), FOLDER/_annotations.coco.json beside its pictures (Roboflow; one
FOLDER with --option subset=FOLDER), result.json and images/ (Label Studio), labels.json and data/ (FiftyOne).

Pictures are asked "Describe the image in few words." (Pan et al. 2024) and the model's own answer is explained.
With source "text" the human captions that mention a concept are the answers, and no picture is given.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import UsageError
from atlas.store.atomic import sha256
from ingest.data.examples import FIND, HELD_OUT, IMAGE, TEXT, BadMedia, Concept, Example, Mention
from ingest.data.media import MAX_PIXELS, open_image
from ingest.datasets import _coco_files
from ingest.datasets._coco_captions import CaptionMentions, concepts_of
from ingest.datasets._coco_masks import mask_of
from ingest.datasets._coco_rows import Id
from ingest.datasets._files import check_names, dataset_folder, resolve_media, sort_key, split_of

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPT = "Describe the image in few words."
CAPTION = "caption"
RULES = 3  # raised whenever the same files would give other examples


class Coco:
    """A COCO folder; see `ingest.data.examples.Dataset`.

    The split follows from the image's id alone: about one in five is "held_out". A caption that stands under
    pictures of both splits is held out.
    """

    name = "coco"

    def __init__(
        self, root: Path, files: _coco_files.CocoFiles, *, options: Mapping[str, Any], max_pixels: int
    ) -> None:
        self.path = str(root)
        self.max_pixels = max_pixels
        self._root = root
        self._index = files.index
        self._pointers = files.pointers
        self._by_pointer = {files.pointers[number]: image for number, image in files.index.imgs.items()}
        every = concepts_of(files.categories)
        self._named = {number: every[number].name for number in files.index.cats}
        self.concepts: Mapping[str, Concept] = {every[number].name: every[number] for number in files.index.cats}
        self._texts, self._every = files.captions, every.values()
        words = [[*concept.forms, "", *concept.unlike] for concept in self.concepts.values()]
        said = [RULES, files.digest, dict(options), words]
        self.revision = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        self.licence = _licence(files.index.dataset)
        self.all_tasks: Mapping[str, tuple[str, ...]] = {
            IMAGE: (CAPTION,),
            TEXT: (CAPTION,) if any(files.captions.values()) else (),
        }
        self.tasks = self.all_tasks
        # Without human captions there is nothing to judge the model's by.
        self.metrics: Mapping[str, tuple[str, ...]] = dict.fromkeys(self.tasks[TEXT], ("bleu", "rouge_l", "cider"))

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        """At most `per_concept` examples of each concept, in a fixed order that `seed` decides.

        Of the pictures that show a concept those come first whose human captions mention it: there it is not a detail.

        Raises:
            UsageError: a source, split, concept or task that the dataset does not have.
        """
        for kind, asked, known in (("source", [source], self.tasks), ("split", [split], (FIND, HELD_OUT))):
            check_names(kind, asked, known)
        check_names("concept", concepts, self.concepts)
        check_names("task", tasks, self.tasks[source])
        if not tasks:
            return []
        if source == TEXT:
            self._captions.tell(concepts)
        found: dict[str, Example] = {}
        for name in concepts:
            chosen = self._pictures(name, split, seed) if source == IMAGE else self._sayings(name, split, seed)
            found |= {example.id: example for example in chosen[:per_concept]}
        return list(found.values())

    def image(self, media: str) -> Image:
        """The RGB photograph behind a pointer.

        Raises:
            BadMedia: missing, corrupt, too large, outside the folder, or of another shape than its masks.
        """
        path = resolve_media(self._root, media)
        record = self._record(media)
        found = open_image(path, self.max_pixels)
        # A picture may be kept smaller than COCO's; turned on its side its masks would be wrong.
        if abs(found.width * record["height"] / (found.height * record["width"]) - 1) > 0.05:
            drawn = f"{record['width']} x {record['height']}"
            raise BadMedia(f"{path} is {found.width} x {found.height} pixels, its masks were drawn on {drawn}")
        return found

    def digest(self, media: str) -> str:
        """The sha256 of the file's bytes, or "missing"."""
        try:
            return sha256(resolve_media(self._root, media))
        except (OSError, BadMedia):
            return "missing"

    def mask(self, media: str, concept: str) -> np.ndarray:
        """(height, width) bool, at the size in the annotation file: the pixels that show the concept, crowds among
        them. An instance without an outline is its box.

        Raises:
            UsageError: no such concept.
            BadMedia: no such picture.
            IntegrityError: an outline is not of any form COCO has.
        """
        check_names("concept", [concept], self.concepts)
        record = self._record(media)
        shown = np.zeros((record["height"], record["width"]), dtype=bool)
        for instance in self._index.imgToAnns[record["id"]]:
            if self._named[instance["category_id"]] == concept:
                shown |= mask_of(instance, *shown.shape)
        return shown

    def _pictures(self, concept: str, split: str, seed: int) -> list[Example]:
        """The pictures of a split that show the concept, in the order that the seed decides; what the model says of one
        is judged by its human captions."""
        ids = [number for number in self._showing[concept] if split_of(number) == split]
        ids.sort(key=lambda number: (concept not in self._said[number], sort_key(seed, concept, number)))
        return [self._picture(number, split) for number in ids]

    def _picture(self, number: Id, split: str) -> Example:
        mentions, said = tuple(map(Mention, self._shown[number])), tuple(self._texts[number])
        return Example(IMAGE, CAPTION, split, PROMPT, None, mentions, (self._pointers[number],), said)

    def _sayings(self, concept: str, split: str, seed: int) -> list[Example]:
        """The human captions of a split that mention the concept, in the order that the seed decides."""
        texts = [text for text in self._mentioning[concept] if self._caption_split[text] == split]
        texts.sort(key=lambda text: sort_key(seed, concept, text))
        return [self._saying(text, split) for text in texts]

    def _saying(self, text: str, split: str) -> Example:
        told = self._captions  # what people say of one picture counts as one fact
        mentions = tuple(map(Mention, told.mentions[text]))
        return Example(TEXT, CAPTION, split, PROMPT, text, mentions, fact=f"picture {told.picture[text]}")

    @cached_property
    def _shown(self) -> dict[Id, list[str]]:
        """What each picture shows, each concept once, in the order of the categories."""
        order = {name: place for place, name in enumerate(self.concepts)}
        found: dict[Id, list[str]] = {}
        for number in _in_order(self._index.imgs):
            names = {self._named[instance["category_id"]] for instance in self._index.imgToAnns[number]}
            found[number] = sorted(names, key=order.__getitem__)
        return found

    @cached_property
    def _showing(self) -> Mapping[str, list[Id]]:
        return _inverse(self._shown)

    @cached_property
    def _captions(self) -> CaptionMentions:
        return CaptionMentions(self._texts, self._every, self.concepts, self._shown)

    @cached_property
    def _mentioning(self) -> Mapping[str, list[str]]:
        return _inverse(self._captions.mentions)

    @cached_property
    def _said(self) -> dict[Id, set[str]]:
        """Which concepts the human captions of each picture mention."""
        told = self._captions
        return {number: {n for text in texts for n in told.mentions[text]} for number, texts in told.by_picture.items()}

    @cached_property
    def _caption_split(self) -> dict[str, str]:
        return self._captions.splits()

    def _record(self, media: str) -> Mapping[str, Any]:
        """The picture's row of the annotation file."""
        record: Mapping[str, Any] | None = self._by_pointer.get(media)
        if record is None:
            raise BadMedia(f"'{media}' is not a picture of the dataset at {self._root}")
        return record

    def require_pictures(self) -> None:
        """Raises UsageError where not one of the pictures is there."""
        if not any((self._root / media).is_file() for media in self._by_pointer):
            raise UsageError(f"none of the pictures is below {self._root} (looked for {next(iter(self._by_pointer))})")


def build(
    path: str | None = None,
    *,
    classes: str = "",
    max_samples: int = 0,
    seed: int = 0,
    subset: str = "",
    max_pixels: int = MAX_PIXELS,
) -> Coco:
    """Read a COCO folder.

    classes: only these categories, with commas between. max_samples: only so many pictures, chosen by `seed`; 0: all.
    subset: only annotation files whose name has this in it, for example val2017. max_pixels: of one picture.

    Raises:
        UsageError: no folder given, not a COCO folder, no such class, or no pictures.
        IntegrityError: an annotation file is damaged.
    """
    root = dataset_folder(path, "coco")
    files = _coco_files.read(root, subset)
    wanted = tuple(name.strip() for name in classes.split(",") if name.strip())
    options: dict[str, Any] = {}
    if wanted:
        options["classes"] = sorted(wanted)
    if max_samples > 0:
        options |= {"max_samples": max_samples, "seed": seed}
    found = Coco(root, _narrowed(files, wanted, max_samples, seed), options=options, max_pixels=max_pixels)
    found.require_pictures()
    return found


def _narrowed(
    files: _coco_files.CocoFiles, classes: Sequence[str], max_samples: int, seed: int
) -> _coco_files.CocoFiles:
    """The files without the categories and pictures that are not wanted."""
    if not classes and max_samples <= 0:
        return files
    whole = dict(files.index.dataset)
    if classes:
        check_names("class", classes, [category["name"] for category in whole["categories"]])
        whole["categories"] = [category for category in whole["categories"] if category["name"] in classes]
        kept = {c["id"] for c in whole["categories"]}
        whole["annotations"] = [a for a in whole["annotations"] if a["category_id"] in kept]
        shown = {a["image_id"] for a in whole["annotations"]}
        whole["images"] = [image for image in whole["images"] if image["id"] in shown]
    if max_samples > 0:
        whole["images"] = sorted(whole["images"], key=lambda i: sort_key(seed, "", i["id"]))[:max_samples]
    if not whole["images"]:
        raise UsageError(f"no picture shows {', '.join(classes)}; there is nothing to ingest")
    return files.narrowed(whole)


def _in_order(ids: Iterable[Id]) -> list[Id]:
    """Numbers first, then texts."""
    return sorted(ids, key=lambda number: (isinstance(number, str), number))


def _inverse(lists: Mapping[Any, list[str]]) -> Mapping[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for key, names in lists.items():
        for name in names:
            found[name].append(key)
    return found


def _licence(whole: Mapping[str, Any]) -> str:
    """The licences that the pictures have, by name."""
    rows = [row for row in whole.get("licenses", []) if isinstance(row, Mapping)]
    names = {row["id"]: row.get("name") for row in rows if isinstance(row.get("id"), int)}
    numbers = [image.get("license") for image in whole["images"]]
    used = sorted({str(names[n]) for n in numbers if isinstance(n, int) and names.get(n)})
    return "; ".join(used) or "unknown"
