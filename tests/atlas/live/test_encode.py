"""Chat text, with a processor and with a tokenizer alone."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.live.encode import Encoder
from atlas.live.model import LiveModel

# As text models' templates are: the content is a string, and the assistant's turn ends in the end token.
TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@pytest.fixture
def chat(opt: LiveModel) -> Encoder:
    """A tokenizer with a chat template, and no processor."""
    from transformers import PreTrainedTokenizerFast

    plain = opt.encoder.tokenizer
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    return Encoder(tokenizer, opt.model.config)


def test_a_tokenizers_chat_text_is_text(chat: Encoder) -> None:
    assert chat.render("what is this ?") == "USER: what is this ? ASSISTANT:"
    assert chat.decode(chat.prompt("what is this ?").ids) == "USER: what is this ? ASSISTANT:"


@pytest.mark.parametrize("answer", ["a dog", "s", "/", "ASSISTANT", "USER: what"])
def test_the_answer_ends_where_it_is_said_and_not_inside_the_end_token(chat: Encoder, answer: str) -> None:
    assert chat.render("what is this ?", (), answer) == f"USER: what is this ? ASSISTANT: {answer}"
    assert chat.decode(chat.prompt("what is this ?", answer=answer).answer).strip() == answer


def test_a_processors_turns_are_parts(llava: LiveModel) -> None:
    render = llava.encoder.render
    assert render("what is this ?", ["image"]) == "USER: <image>\nwhat is this ? ASSISTANT:"
    assert render("what is this ?", (), "a dog") == "USER: what is this ? ASSISTANT: a dog"
