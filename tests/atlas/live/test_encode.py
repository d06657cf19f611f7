"""Chat text, with a processor and with a tokenizer alone."""

from __future__ import annotations

import warnings
from typing import Any

import families
import pytest
from family_checks import pictures, sound

from atlas.errors import UsageError
from atlas.live import encode
from atlas.live.encode import CutRecording, Encoder
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


def test_a_recording_that_is_longer_than_what_the_model_hears_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_warned_lengths", set())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = LiveModel(*families.build("Qwen2-Audio"), name="ears")
    whole = live.encoder.prompt("what is this?", [sound(1.0)])  # all of the window of 1 s, and no warning
    with pytest.warns(CutRecording, match="hears 1 s of a recording: of longer ones \\(here 2.5 s\\)") as told:
        longer = live.encoder.prompt("what is this?", [sound(2.5)])
        live.encoder.prompt("what is this?", [sound(1.5)])
    assert len(told) == 1 and len(longer.ids) == len(whole.ids)


def test_an_empty_prompt_is_refused(llava: LiveModel) -> None:
    for prompt in ("", " \n"):
        with pytest.raises(UsageError, match="the prompt is empty and has no media"):
            llava.encoder.prompt(prompt)
    assert llava.encoder.prompt("", pictures(1)).ids
