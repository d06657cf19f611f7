"""The tokenizer: byte-level BPE in which each word of the world is one token.

A word of the vocabulary is taken whole (`ignore_merges`); any other text falls back to its bytes, so every
text encodes and decodes. The names of several tokens are merged from bytes into their two pieces.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from ingest.datasets._world import THINGS, vocabulary

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
SPACE = "Ġ"  # how byte-level BPE spells a leading space

# An image stands before the words: "<s>user:<image> what is this? assistant:".
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ ' ' if not loop.first and message['role'] == 'assistant' else '' }}{{ message['role'] }}:"
    "{% if message['content'] is string %}{{ ' ' + message['content'] | trim }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ ' ' + part['text'] | trim }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} assistant:{% endif %}"
)


def build_tokenizer(more_words: Sequence[str] = (), more_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """more_words: further words that are one token. more_tokens: what is one token wherever it stands, as it is spelled
    and without the space before it; these come last."""
    specials = [PAD, BOS, EOS, IMAGE]
    words = ["user", *(SPACE + word for word in ["user", "assistant", *vocabulary()])]
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
        extra_special_tokens={"image_token": IMAGE},
        chat_template=CHAT_TEMPLATE,
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
