"""Models in GGUF files, by transformers' own reader: dequantised, as a stock class that can be edited and saved."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from atlas.errors import Unsupported, UsageError
from atlas.live.load.completeness import read_weights, warn
from atlas.live.load.gguf_header import Header, read_header, require_packages

SUFFIX = ".gguf"
WHOLE_NUMBERS = ("F32", "F16", "BF16", "F64")
"""Kinds of stored numbers that are not quantised."""

DIGITS_ALONE = ("smollm", "starcoder", "refact", "codeshell", "command-r", "exaone", "minerva-7b")
"""llama.cpp's names of splittings into words that are GPT-2's, with every digit by itself."""

AS_GPT2 = ("gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais")
"""llama.cpp's names of splittings into words that are GPT-2's."""

READS_SCALING = ("gpt-oss",)
"""Architectures whose scaled rotary positions transformers reads."""


def find_gguf(name: str | Path) -> Path | None:
    """The GGUF file that a model's name means: the file itself, or the only one in a folder without config.json.

    None: it means another kind of model.

    Raises:
        UsageError: there is no such file, or the folder has several.
    """
    place = Path(name)
    if place.suffix.lower() == SUFFIX and not place.is_dir():
        if not place.is_file():
            raise UsageError(
                f"there is no file {name}; give a GGUF file, a model's folder, or a name of `atlas models`"
            )
        return place
    if not place.is_dir() or (place / "config.json").exists():
        return None
    files = sorted(file for file in place.iterdir() if file.suffix.lower() == SUFFIX and file.is_file())
    if len(files) > 1:
        shown = ", ".join(file.name for file in files[:8]) + (", ..." if len(files) > 8 else "")
        raise UsageError(f"the folder {name} has {len(files)} GGUF files ({shown}); give one: {files[0]}")
    return files[0] if files else None


def read_gguf_config(file: Path, quantization: str | None) -> Any:
    """The configuration in a GGUF file, as if from a config.json.

    Raises:
        UsageError: it is damaged, is not a whole model, or `quantization` is given.
        Unsupported: the extra is missing, or transformers cannot read this architecture.
    """
    import transformers

    if quantization is not None:
        raise UsageError(
            f"{file} is a GGUF file, which is dequantised while it is loaded; leave out [[quantization]], "
            "or give the model's safetensors"
        )
    header = _checked_header(file)
    try:
        config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        kind: Any = transformers.AutoModelForCausalLM._model_mapping[type(config)]
    except (ValueError, KeyError) as error:
        if isinstance(error, ValueError) and "not supported" not in str(error):
            raise
        raise Unsupported(
            f"{file} is a GGUF file of the architecture '{header.architecture}', which transformers "
            f"{transformers.__version__} does not read as a language model; give the model's safetensors"
        ) from None
    config.architectures = [kind.__name__]
    vars(config).pop("_model_name_or_path", None)  # the title in the file, which is no path
    return config


def _checked_header(file: Path) -> Header:
    require_packages(f"reading {file}")
    header = read_header(file)
    fields, architecture = header.fields, header.architecture
    if not architecture:
        raise UsageError(f"{file} does not say which architecture it is of; convert the model again")
    if fields.get("general.type", "model") != "model" or architecture == "clip":
        kind = "a vision projector" if architecture == "clip" else f"of the type '{fields['general.type']}'"
        raise UsageError(f"{file} is {kind} and not a language model; give the model's own GGUF file")
    if int(fields.get("split.count", 1)) > 1:
        raise UsageError(
            f"{file} is one of {fields['split.count']} parts of a model; join them with llama.cpp's "
            "`llama-gguf-split --merge`, and give the file that it writes"
        )
    scaling = str(fields.get(f"{architecture}.rope.scaling.type", "none"))
    scaled = scaling != "none" or any(name.startswith(("rope_freqs", "rope_factors")) for name in header.tensors)
    if scaled and architecture not in READS_SCALING:
        raise Unsupported(
            f"{file} has scaled rotary positions, which transformers does not read from GGUF, so that it would "
            "compute other numbers; give the model's safetensors"
        )
    return header


def load_gguf(file: Path, config: Any, kind: Any, **options: Any) -> tuple[Any, Any]:
    """(model, tokenizer) of a GGUF file, with its weights dequantised. config: of `read_gguf_config`.

    Warns that they are, and of weights that are left out.

    Raises:
        UsageError: the file lacks weights of the model.
    """
    import transformers

    header = read_header(file)
    if dense := getattr(transformers, "GgufConfig", None):  # older versions always dequantise
        options["quantization_config"] = dense(dequantize=True)
    model = read_weights(kind, file.parent, config=config, gguf_file=file.name, **options)
    _forget_quantization(model)
    tokenizer = load_gguf_tokenizer(file)
    kinds = sorted({tensor.kind for tensor in header.tensors.values()} - {*WHOLE_NUMBERS})
    if kinds:
        warn(
            f"the weights of {file.name} are quantised ({', '.join(kinds)}); they are dequantised, and so used as dense"
        )
    _warn_of_unread(file, header, model)
    return model, tokenizer


def load_gguf_tokenizer(file: Path) -> Any:
    """The tokenizer of a GGUF file, or that of a tokenizer.json beside it."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    if not (file.parent / "tokenizer.json").is_file():
        header = read_header(file)
        _drop_added_tokens(header, tokenizer)
        _split_as_trained(file, header, tokenizer)
    return tokenizer


@contextmanager
def parsing_once(name: str | Path) -> Iterator[None]:
    """Within the block, transformers parses a GGUF file once and without a bar; other models are loaded as ever.

    It parses the file for the config, the weights and the tokenizer, with a table of names for each module, which takes
    most of the time of loading. Its bar is not reached by the switch for all of its others.

    Raises:
        UsageError: see `find_gguf`.
    """
    if find_gguf(name) is None or importlib.util.find_spec("gguf") is None:
        yield
        return
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reader

    once = {part: functools.cache(getattr(gguf, part)) for part in ("GGUFReader", "get_tensor_name_map")}
    bar = {"tqdm": functools.partial(shown, disable=True)} if (shown := vars(reader).get("tqdm")) else {}
    with _replaced(gguf, once), _replaced(reader, bar):
        yield


@contextmanager
def _replaced(module: ModuleType, values: Mapping[str, Any]) -> Iterator[None]:
    """Give names of a module other values while the block lasts; those that it does not have stay so."""
    usual = {name: vars(module)[name] for name in values if name in vars(module)}
    vars(module).update({name: values[name] for name in usual})
    try:
        yield
    finally:
        vars(module).update(usual)


def _forget_quantization(model: Any) -> None:
    """Make it a model like any other: transformers refuses to save one that it takes for quantised."""
    model.hf_quantizer = None
    for place in (model, model.config):
        for name in ("quantization_method", "is_quantized", "quantization_config", "_pre_quantization_dtype"):
            vars(place).pop(name, None)


def _drop_added_tokens(header: Header, tokenizer: Any) -> None:
    """Take out tokens that the file does not have: transformers adds GPT-2's `<|endoftext|>` to every vocabulary of
    its kind, behind the last one."""
    count = header.fields.get("tokenizer.ggml.tokens")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    own = [token for token in state["added_tokens"] if not isinstance(count, int) or token["id"] < count]
    if len(own) < len(state["added_tokens"]):
        state["added_tokens"] = own
        tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))


def _split_as_trained(file: Path, header: Header, tokenizer: Any) -> None:
    """Split text into words as the tokenizer was trained to; transformers knows some of the splittings."""
    from tokenizers import pre_tokenizers

    split = str(header.fields.get("tokenizer.ggml.pre", ""))
    if header.fields.get("tokenizer.ggml.model") != "gpt2" or not split or split in AS_GPT2:
        return
    if split in DIGITS_ALONE:
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    elif split not in _known_splits():
        warn(
            f"the tokenizer of {file.name} splits text as '{split}', which is not known here: some words may become "
            "other tokens than in training; to be sure, put the model's tokenizer.json beside the file"
        )


def _known_splits() -> frozenset[str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return frozenset()
    return frozenset(GGUF_PRE_TOKENIZER_SPLITS)


def _warn_of_unread(file: Path, header: Header, model: Any) -> None:
    """Warn where the file has more numbers than the model took from it."""
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    stored = sum(t.numbers for name, t in header.tensors.items() if not (tied and name == "output.weight"))
    taken = sum(parameter.numel() for parameter in model.parameters())
    if stored > taken:
        warn(
            f"{file.name} has {stored:,} numbers and its {type(model).__name__} takes {taken:,}; the others are left "
            "out, so that it may not compute what the file's model does"
        )
