"""The tokenizer: byte-level BPE in which each word of the world is one token.

A word of the vocabulary is taken whole (`ignore_merges`); any other text falls back to its bytes, so every
text encodes and decodes. The names of several tokens are merged from bytes into their two pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from ingest.datasets._sound_words import sound_texts
from ingest.datasets._world import THINGS, vocabulary

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
AUDIO, AUDIO_BOS, AUDIO_EOS = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
SPACE = "Ġ"  # how byte-level BPE spells a leading space


def chat_template(kind: str, written: str) -> str:
    """The template of a model whose second modality is `kind`; each part of that kind is `written` before the words:
    "<s>user:<image> what is this? assistant:"."""
    return (
        "{{ bos_token }}{% for message in messages %}"
        "{{ ' ' if not loop.first and message['role'] == 'assistant' else '' }}{{ message['role'] }}:"
        "{% if message['content'] is string %}{{ ' ' + message['content'] | trim }}"
        "{% else %}"
        f"{{% for part in message['content'] if part['type'] == '{kind}' %}}{written}{{% endfor %}}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ ' ' + part['text'] | trim }}{% endfor %}"
        "{% endif %}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %} assistant:{% endif %}"
    )


CHAT_TEMPLATE = chat_template("image", IMAGE)
HEARD_TEMPLATE = chat_template("audio", AUDIO_BOS + AUDIO + AUDIO_EOS)


def build_tokenizer(more_words: Sequence[str] = (), more_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """The tokenizer of a model that sees. more_words: further words that are one token. more_tokens: what is one token
    wherever it stands, as it is spelled and without the space before it; these come last."""
    return _build(vocabulary(), {"image_token": IMAGE}, CHAT_TEMPLATE, more_words, more_tokens)


def build_heard_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of a model that hears."""
    media = {"audio_token": AUDIO, "audio_bos_token": AUDIO_BOS, "audio_eos_token": AUDIO_EOS}
    return _build(vocabulary(sound_texts()), media, HEARD_TEMPLATE)


def _build(
    known: list[str],
    media: dict[str, str],
    template: str,
    more_words: Sequence[str] = (),
    more_tokens: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """known: words that are one token. media: special tokens of the other modality, by the processor's names."""
    specials = [PAD, BOS, EOS, *media.values()]
    words = ["user", *(SPACE + word for word in ["user", "assistant", *known])]
    pieces, merges = _pieces()
    further = [SPACE + word for word in more_words]
    entries = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *words, *pieces, *further]
    vocab = {entry: number for number, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(special, normalized=False) for special in specials])
    tokenizer.add_tokens([AddedToken(token, normalized=False, lstrip=True) for token in more_tokens])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=media,
        chat_template=template,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _pieces() -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges that build each piece from its bytes, one byte more at a time."""
    tokens: list[str] = []
    merges: list[tuple[str, str]] = []
    for thing in THINGS:
        for piece in thing.pieces:
            spelled = piece.replace(" ", SPACE)
            for end in range(2, len(spelled) + 1):
                merges.append((spelled[: end - 1], spelled[end - 1]))
                tokens.append(spelled[:end])
    return list(dict.fromkeys(tokens)), list(dict.fromkeys(merges))
