"""Model folders whose files are damaged, cut, missing or another's: told in one line, or the model is what it was."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from PIL import Image

from atlas.errors import AtlasError, UsageError
from atlas.live.model import LiveModel

pytestmark = pytest.mark.filterwarnings("ignore")

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda raw: raw[: len(raw) // 2],
    "without its end": lambda raw: raw[:-9],
    "empty": lambda raw: b"",
    "an LFS pointer": lambda raw: POINTER,
    "zeros": lambda raw: bytes(len(raw)),
    "a web page": lambda raw: b"<html>404</html>",
    "a list": lambda raw: b"[]",
    "null": lambda raw: b"null",
    "an object": lambda raw: b"{}",
}
VALUES: tuple[Any, ...] = (None, -1, 0, "x", [], {}, 3000, 1.5, True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("whole") / "model"
            for part in families.build(name):
                part.save_pretrained(made[name])
        return made[name]

    return folder


def used(folder: Path, kind: str) -> None:
    """Everything that a run does to a model: load, encode, read, answer, say what it is. It may refuse, in one line."""
    picture = Image.fromarray(np.random.default_rng(7).integers(0, 256, (10, 12, 3), dtype=np.uint8))
    media = [picture] if kind == "image" else []
    try:
        live = LiveModel.load(folder)
        batch = live.batch([live.encoder.prompt("what is this ?", media, "a dog")])
        with torch.no_grad():
            live.forward(batch)
        live.ask("what is this ?", media, max_new_tokens=2)
        assert live.identity
    except AtlasError as error:
        assert "\n" not in str(error) and len(str(error)) < 1200, str(error)


def with_file(source: Path, folder: Path, name: str, content: bytes | None) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


TOLD = [
    ("model.safetensors", "half", r"model.safetensors is damaged or cut \(Error while deserializing"),
    ("model.safetensors", "empty", "model.safetensors is empty; fetch the file again"),
    ("model.safetensors", "an LFS pointer", "model.safetensors is a Git LFS pointer .* `git lfs pull`"),
    ("tokenizer.json", "an LFS pointer", "tokenizer.json is a Git LFS pointer"),
    ("tokenizer.json", "half", "tokenizer.json is damaged or cut"),
    ("config.json", "half", "config.json is damaged or cut"),
    ("config.json", "null", "config.json is not a JSON object; fetch the file again"),
    ("generation_config.json", "a list", "generation_config.json is not a JSON object"),
    ("processor_config.json", "a web page", "processor_config.json is damaged or cut"),
    ("chat_template.jinja", "half", "this model's chat template leaves out the user's text"),
]


@pytest.mark.parametrize(("name", "content", "told"), TOLD)
def test_a_damaged_file_is_named(name: str, content: str, told: str, llava_folder: Path, tmp_path: Path) -> None:
    raw = (llava_folder / name).read_bytes()
    folder = with_file(llava_folder, tmp_path / "model", name, CONTENTS[content](raw))
    with pytest.raises(UsageError, match=told):
        LiveModel.load(folder).encoder.prompt("what is this ?")


@pytest.mark.parametrize("name", ["LLaVA", "OPT"])
def test_no_tokenizer_is_told(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder = with_file(folders(name), tmp_path / "model", "tokenizer.json", None)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UsageError, match="has no tokenizer"):
        LiveModel.load(folder)


@pytest.mark.parametrize("name", ["LLaVA", "OPT"])
def test_every_file_may_be_damaged(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    source, kind = folders(name), families.FAMILIES[name][0]
    for file in sorted(source.iterdir()):
        for content in (None, *CONTENTS.values()):
            made = None if content is None else content(file.read_bytes())
            used(with_file(source, tmp_path / "model", file.name, made), kind)


def swapped(source: Path, folder: Path) -> Iterator[Path]:
    for first, second in combinations(sorted(source.iterdir()), 2):
        with_file(source, folder, first.name, second.read_bytes())
        (folder / second.name).write_bytes(first.read_bytes())
        yield folder


def flipped(source: Path, folder: Path, draw: random.Random, count: int) -> Iterator[Path]:
    for file in sorted(source.iterdir()):
        for _ in range(count):
            raw = bytearray(file.read_bytes())
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            yield with_file(source, folder, file.name, bytes(raw))


def places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values of a JSON document, but for long lists (the words of a tokenizer)."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items if len(content if isinstance(content, dict | list) else ()) < 100 else ():
        yield (*at, key)
        yield from places(value, (*at, key))


def revalued(source: Path, folder: Path, draw: random.Random, count: int) -> Iterator[Path]:
    """Each JSON file with one value that is another, or gone."""
    for file in sorted(source.glob("*.json")):
        whole = json.loads(file.read_text())
        for path in draw.sample(every := list(places(whole)), min(count, len(every))):
            for value in (*VALUES, "gone"):
                content = copy.deepcopy(whole)
                inside = content
                for key in path[:-1]:
                    inside = inside[key]
                if value == "gone":
                    del inside[path[-1]]
                else:
                    inside[path[-1]] = value
                yield with_file(source, folder, file.name, json.dumps(content).encode())


def test_files_may_be_swapped_and_bits_flipped(folders: Callable[[str], Path], tmp_path: Path) -> None:
    for folder in swapped(folders("OPT"), tmp_path / "model"):
        used(folder, "text")
    for folder in flipped(folders("LLaVA"), tmp_path / "model", random.Random(0), 2):
        used(folder, "image")


@pytest.mark.nightly
@pytest.mark.parametrize("name", families.FAMILIES)
def test_anything_may_be_damaged(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    source, kind, draw = folders(name), families.FAMILIES[name][0], random.Random(name)
    for made in (
        swapped(source, tmp_path / "model"),
        flipped(source, tmp_path / "model", draw, 4),
        revalued(source, tmp_path / "model", draw, 2),
    ):
        for folder in made:
            used(folder, kind)
