"""coco: photographs with masks and human captions, from any folder in COCO's form.

    PATH/annotations/instances*.json  captions*.json (optional)
    PATH/images/*.jpg, or images/val2017/, train2017/, val2017/, ...

or as others write it: annotations/lvis*.json (LVIS), FOLDER/_annotations.coco.json beside its pictures (Roboflow; one
FOLDER with --option subset=FOLDER), result.json and images/ (Label Studio), labels.json and data/ (FiftyOne).

The prompt for a picture is "Describe the image in few words." (Pan et al. 2024), and the model's own answer is
explained. With source "text" the human captions that mention a concept are the answers, and no picture is given.
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
from ingest.data.examples import FIND, HELD_OUT, IMAGE, MISSING, TEXT, BadMedia, Concept, Example, Mention
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

    The split is the picture's own ("split": "find" or "held_out" in its row of the annotation file), or follows from
    its id alone: about one in five is "held_out". A caption of pictures of both splits is held out.
    """

    name = "coco"

    def __init__(
        self, root: Path, files: _coco_files.CocoFiles, *, options: Mapping[str, Any], max_pixels: int
    ) -> None:
        self.path: str | None = str(root)
        self.max_pixels = max_pixels
        self._root = root
        self._index = files.index
        self._pointers = files.pointers
        self._by_pointer = {files.pointers[picture_id]: image for picture_id, image in files.index.imgs.items()}
        self._split = {picture_id: _own_split(image) for picture_id, image in files.index.imgs.items()}
        concepts_by_id = concepts_of(files.categories)
        self._named = {category_id: concepts_by_id[category_id].name for category_id in files.index.cats}
        self.concepts: Mapping[str, Concept] = {
            concepts_by_id[category_id].name: concepts_by_id[category_id] for category_id in files.index.cats
        }
        self._texts, self._every = files.captions, concepts_by_id.values()
        words = [[*concept.forms, "", *concept.unlike] for concept in self.concepts.values()]
        content = [RULES, files.digest, dict(options), words]
        self.revision = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.licence = _licence(files.index.dataset)
        self.all_tasks: Mapping[str, tuple[str, ...]] = {
            IMAGE: (CAPTION,),
            TEXT: (CAPTION,) if any(files.captions.values()) else (),
        }
        self.tasks = self.all_tasks
        # Without human captions there is nothing to compare the model's with.
        self.metrics: Mapping[str, tuple[str, ...]] = dict.fromkeys(self.tasks[TEXT], ("bleu", "rouge_l", "cider"))

    def examples(
        self, *, source: str, split: str, concepts: Sequence[str], tasks: Sequence[str], per_concept: int, seed: int
    ) -> list[Example]:
        """At most `per_concept` examples of each concept, in a fixed order that `seed` decides.

        Pictures whose human captions mention the concept come first: in those it is not a mere detail.

        Raises:
            UsageError: a source, split, concept or task that the dataset does not have.
        """
        for kind, names, known in (("source", [source], self.tasks), ("split", [split], (FIND, HELD_OUT))):
            check_names(kind, names, known)
        check_names("concept", concepts, self.concepts)
        check_names("task", tasks, self.tasks[source])
        if not tasks:
            return []
        if source == TEXT:
            self._captions.warn(concepts)
        by_id: dict[str, Example] = {}
        for name in concepts:
            chosen = self._pictures(name, split, seed) if source == IMAGE else self._sayings(name, split, seed)
            by_id |= {example.id: example for example in chosen[:per_concept]}
        return list(by_id.values())

    def image(self, media: str) -> Image:
        """The RGB photograph behind a pointer.

        Raises:
            BadMedia: missing, corrupt, too large, outside the folder, or of another shape than its masks.
        """
        path = resolve_media(self._root, media)
        record = self._record(media)
        picture = open_image(path, self.max_pixels)
        # A picture may be stored smaller than COCO's; one turned on its side would have the wrong masks.
        if abs(picture.width * record["height"] / (picture.height * record["width"]) - 1) > 0.05:
            expected = f"{record['width']} x {record['height']}"
            raise BadMedia(f"{path} is {picture.width} x {picture.height} pixels, its masks were drawn on {expected}")
        return picture

    def digest(self, media: str) -> str:
        """The sha256 of the file's bytes, or MISSING."""
        try:
            return sha256(resolve_media(self._root, media))
        except (OSError, BadMedia):
            return MISSING

    def mask(self, media: str, concept: str) -> np.ndarray:
        """(height, width) bool, at the size in the annotation file: the pixels that show the concept, crowds included.
        An instance without an outline counts as its box.

        Raises:
            UsageError: no such concept.
            BadMedia: no such picture.
            IntegrityError: an outline is not in any of COCO's forms.
        """
        check_names("concept", [concept], self.concepts)
        record = self._record(media)
        pixels = np.zeros((record["height"], record["width"]), dtype=bool)
        for instance in self._index.imgToAnns[record["id"]]:
            if self._named[instance["category_id"]] == concept:
                pixels |= mask_of(instance, *pixels.shape)
        return pixels

    def _pictures(self, concept: str, split: str, seed: int) -> list[Example]:
        """The pictures of a split that show the concept, in the order that the seed decides; their human captions are
        the references."""
        ids = [picture_id for picture_id in self._showing[concept] if self._split[picture_id] == split]
        ids.sort(key=lambda picture_id: (concept not in self._said[picture_id], sort_key(seed, concept, picture_id)))
        return [self._picture(picture_id, split) for picture_id in ids]

    def _picture(self, picture_id: Id, split: str) -> Example:
        mentions, captions = tuple(map(Mention, self._shown[picture_id])), tuple(self._texts[picture_id])
        return Example(IMAGE, CAPTION, split, PROMPT, None, mentions, (self._pointers[picture_id],), captions)

    def _sayings(self, concept: str, split: str, seed: int) -> list[Example]:
        """The human captions of a split that mention the concept, in the order that the seed decides."""
        texts = [text for text in self._mentioning[concept] if self._caption_split[text] == split]
        texts.sort(key=lambda text: sort_key(seed, concept, text))
        return [self._saying(text, split) for text in texts]

    def _saying(self, text: str, split: str) -> Example:
        captions = self._captions  # all captions of one picture count as one fact
        mentions = tuple(map(Mention, captions.mentions[text]))
        return Example(TEXT, CAPTION, split, PROMPT, text, mentions, fact=f"picture {captions.picture[text]}")

    @cached_property
    def _shown(self) -> dict[Id, list[str]]:
        """What each picture shows, each concept once, in the order of the categories."""
        position = {name: place for place, name in enumerate(self.concepts)}
        names_by_picture: dict[Id, list[str]] = {}
        for picture_id in _in_order(self._index.imgs):
            names = {self._named[instance["category_id"]] for instance in self._index.imgToAnns[picture_id]}
            names_by_picture[picture_id] = sorted(names, key=position.__getitem__)
        return names_by_picture

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
        captions = self._captions
        return {
            picture_id: {name for text in texts for name in captions.mentions[text]}
            for picture_id, texts in captions.by_picture.items()
        }

    @cached_property
    def _caption_split(self) -> dict[str, str]:
        return self._captions.splits(self._split)

    def _record(self, media: str) -> Mapping[str, Any]:
        """The picture's row of the annotation file."""
        record: Mapping[str, Any] | None = self._by_pointer.get(media)
        if record is None:
            raise BadMedia(f"'{media}' is not a picture of the dataset at {self._root}")
        return record

    def require_pictures(self) -> None:
        """Raise UsageError where none of the pictures exists."""
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

    classes: only these categories, separated by commas. max_samples: at most so many pictures, chosen by `seed`; 0:
    all. subset: only annotation files whose name contains this, for example val2017. max_pixels: of one picture.

    Raises:
        UsageError: no folder given, not a COCO folder, no such class, or no pictures.
        IntegrityError: an annotation file is damaged.
    """
    root = dataset_folder(path, "coco")
    files = _coco_files.read(root, subset)
    class_names = tuple(name.strip() for name in classes.split(",") if name.strip())
    options: dict[str, Any] = {}
    if class_names:
        options["classes"] = sorted(class_names)
    if max_samples > 0:
        options |= {"max_samples": max_samples, "seed": seed}
    dataset = Coco(root, _narrowed(files, class_names, max_samples, seed), options=options, max_pixels=max_pixels)
    dataset.require_pictures()
    return dataset


def _narrowed(
    files: _coco_files.CocoFiles, classes: Sequence[str], max_samples: int, seed: int
) -> _coco_files.CocoFiles:
    """The files with the chosen classes and at most `max_samples` pictures."""
    if not classes and max_samples <= 0:
        return files
    content = dict(files.index.dataset)
    if classes:
        check_names("class", classes, [category["name"] for category in content["categories"]])
        content["categories"] = [category for category in content["categories"] if category["name"] in classes]
        category_ids = {c["id"] for c in content["categories"]}
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] in category_ids]
        picture_ids = {a["image_id"] for a in content["annotations"]}
        content["images"] = [image for image in content["images"] if image["id"] in picture_ids]
    if max_samples > 0:
        content["images"] = sorted(content["images"], key=lambda i: sort_key(seed, "", i["id"]))[:max_samples]
    if not content["images"]:
        raise UsageError(f"no picture shows {', '.join(classes)}; there is nothing to ingest")
    return files.narrowed(content)


def _in_order(ids: Iterable[Id]) -> list[Id]:
    """Numbers first, then texts."""
    return sorted(ids, key=lambda number: (isinstance(number, str), number))


def _inverse(lists: Mapping[Any, list[str]]) -> Mapping[str, list[Any]]:
    keys_by_name: dict[str, list[Any]] = defaultdict(list)
    for key, names in lists.items():
        for name in names:
            keys_by_name[name].append(key)
    return keys_by_name


def _own_split(image: Mapping[str, Any]) -> str:
    """Others write "train", "val" or "test" here, which say nothing about what an atlas may find neurons on."""
    split = image.get("split")
    return str(split) if split in (FIND, HELD_OUT) else split_of(image["id"])


def _licence(content: Mapping[str, Any]) -> str:
    """The names of the pictures' licences."""
    rows = [row for row in content.get("licenses", []) if isinstance(row, Mapping)]
    names = {row["id"]: row.get("name") for row in rows if isinstance(row.get("id"), int)}
    numbers = [image.get("license") for image in content["images"]]
    used = sorted({str(names[n]) for n in numbers if isinstance(n, int) and names.get(n)})
    return "; ".join(used) or "unknown"
