"""Prompts that do not fit their model are told while they are encoded; templates of both forms are read."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from atlas.errors import AtlasWarning, Unsupported, UsageError
from atlas.live import hooks
from atlas.live.chat_template import Chat
from atlas.live.encode import Encoder, Prompt
from atlas.live.hooks import tracing
from atlas.live.media import Clip, Sound
from atlas.live.model import LiveModel

TEXTS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)


def with_template(random_llava: Any, template: str | None) -> LiveModel:
    model, processor = random_llava()
    processor.chat_template = template
    return LiveModel(model, processor, name="random")


def test_a_template_that_wants_text_gets_text(random_llava: Any, picture: Image.Image) -> None:
    """Given a list of parts it prints the list, and the model would read that."""
    live = with_template(random_llava, TEXTS)
    assert live.encoder.render("what is this ?", ["image"]) == "user: <image>what is this ? A:"
    assert live.encoder.render("what is this ?", (), "a dog") == "user: what is this ? A: a dog"
    ids = live.encoder.prompt("what is this ?", [picture]).ids
    assert ids.count(live.encoder.role_of.media_ids["image"]) == 4  # 8 / 4 patches a side
    strict = TEXTS.replace("{{ m['content'] }}", "{{ 'x ' + m['content'] }}")  # adding a list to a text fails
    assert with_template(random_llava, strict).encoder.render("a dog") == "user: x a dog A:"


def test_a_tokenizers_template_that_wants_parts_gets_parts(random_llava: Any) -> None:
    """Given a text it goes through its letters and shows none."""
    tokenizer = random_llava()[1].tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}"
    )
    assert Chat(tokenizer, tokenizer).render("a dog barks") == "a dog barks"
    tokenizer.chat_template = TEXTS
    assert Chat(tokenizer, tokenizer).render("a dog barks") == "user: a dog barks A:"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m['content'", "leaves out the user's text: unexpected end of template"),
        ("hello", "leaves out the user's text; put the template"),
        ("{{ raise_exception('roles must alternate') }}", "the user's text: roles must alternate"),
        ("{{ messages[7]['content'] }}", "the user's text: .*no element 7"),
    ],
)
def test_a_template_that_cannot_be_used_is_told(template: str, said: str, random_llava: Any) -> None:
    with pytest.raises(UsageError, match=said):
        with_template(random_llava, template).encoder.prompt("what is this ?")


def test_a_template_that_leaves_pictures_out_is_told(random_llava: Any, picture: Image.Image) -> None:
    text = "(m['content'] | selectattr('type', 'equalto', 'text') | first)['text']"
    only_text = "{% for m in messages %}{{ " + text + " }}{% endfor %}"
    live = with_template(random_llava, only_text)
    assert live.encoder.render("a dog") == "a dog"
    with pytest.raises(
        Unsupported, match="places for 0 of 1 images|cannot read the prompt: .*number of <image> tokens"
    ):
        live.encoder.prompt("a dog", [picture])


@pytest.mark.parametrize("text", ["what is <image> ?", "<image>"])
def test_a_placeholder_in_the_users_text_is_told(text: str, llava: LiveModel, picture: Image.Image) -> None:
    for media in ([], [picture]):
        with pytest.raises(UsageError, match=r"the text '.*' contains '<image>', which this model reads as a picture"):
            llava.encoder.prompt(text, media)
    with pytest.raises(UsageError, match="the text 'an <image>' contains '<image>'"):
        llava.encoder.prompt("what is this ?", answer="an <image>")


def test_a_question_longer_than_the_context_is_told(opt: LiveModel, llava: LiveModel) -> None:
    assert opt.model.config.max_position_embeddings == 128
    assert 100 <= len(opt.encoder.prompt(" a" * 100).ids) <= 128
    match = (
        r"the prompt 'dog dog dog .*\.\.\.' takes [0-9]+ tokens with its answer and media, and this model reads 128; sh"
    )
    with pytest.raises(UsageError, match=match):
        opt.encoder.prompt("dog " * 200)
    with pytest.raises(UsageError, match="this model reads 128"):
        opt.encoder.prompt("what", answer="dog " * 200)


def test_an_answer_ends_where_the_context_does(opt: LiveModel) -> None:
    """Learned positions end; behind them there is nothing to read."""
    prompt = opt.encoder.prompt(" a" * 60)
    with pytest.warns(AtlasWarning, match="1 of 1 answers were cut where the model's context of 128 tokens ends"):
        ids = opt.generate([prompt], max_new_tokens=500)[0]
    assert len(prompt.ids) + len(ids) == 128
    full = Prompt((*prompt.ids, *ids))
    with pytest.raises(UsageError, match="a prompt of 128 tokens leaves no room for an answer in 128"):
        opt.generate([full], max_new_tokens=1)


def test_processors_that_count_other_patches_are_told(random_llava: Any, picture: Image.Image) -> None:
    model, processor = random_llava()
    for size, said in (
        (None, 'no patch_size; write "patch_size": 4 into'),
        (2, "patches of 2 pixels .* are of 4; write"),
    ):
        processor.patch_size = size
        encoder = Encoder(processor, model.config)
        assert encoder.prompt("a dog").ids
        with pytest.raises(Unsupported, match=said):
            encoder.prompt("a dog", [picture])


def test_features_that_do_not_fill_their_places_are_told(random_llava: Any, picture: Image.Image) -> None:
    model, processor = random_llava()
    processor.num_additional_image_tokens = 3
    live = LiveModel(model, processor, name="random")
    prompt = live.encoder.prompt("a dog", [picture])
    for act in (lambda: live.forward(live.batch([prompt])), lambda: live.generate([prompt], max_new_tokens=2)):
        with pytest.raises(Unsupported, match="Image features and image tokens do not match.*saved with the model"):
            act()


def test_pictures_of_memory_are_read_as_files_are(llava: LiveModel) -> None:
    """Sixteen bits as the same picture in eight: 257 times 100 is 100 of 255; transparent black is white."""
    wide = Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    clear, white = Image.new("RGBA", (8, 8), (0, 0, 0, 0)), Image.new("RGB", (8, 8), "white")
    for given, same in ((wide, grey), (clear, white)):
        made, expected = (llava.encoder.prompt("a", [p]).extras["pixel_values"] for p in (given, same))
        assert torch.equal(made, expected)


def test_what_is_no_medium_is_told(llava: LiveModel) -> None:
    for wrong in (np.zeros((8, 8, 3)), "dog.png", None):
        with pytest.raises(UsageError, match="is not a medium; give a PIL picture, a Sound or a Clip"):
            llava.encoder.prompt("a", [wrong])  # type: ignore[list-item]


def test_media_with_nan_are_told(llava: LiveModel, random_llava: Any, picture: Image.Image) -> None:
    import families

    model, processor = families.build("Qwen2-Audio")
    live = LiveModel(model, processor, name="audio")
    samples = np.zeros(16_000, np.float32)
    samples[7] = np.nan
    with pytest.raises(UsageError, match="the recording has samples that are NaN or infinite"):
        live.encoder.prompt("a", [Sound(samples, 16_000)])
    broken = copy.deepcopy(random_llava()[1])
    broken.image_processor.image_std = [0.0, 1.0, 1.0]
    with (
        np.errstate(divide="ignore", invalid="ignore"),
        pytest.raises(Unsupported, match=r"NaN or infinity .*pixel_val"),
    ):
        Encoder(broken, llava.model.config).prompt("a", [picture])
    assert Clip((picture,)).frames


def test_what_the_models_own_code_raises_is_one_line_and_what_ours_does_is_not(random_llava: Any) -> None:
    live = LiveModel(*random_llava(), name="random")
    batch = live.batch([live.encoder.prompt("a dog")])
    layer: Any = live.layout.layers[1]
    attention: Any = layer.self_attn
    attention.head_dim = 7  # as a damaged config has it
    with pytest.raises(
        Unsupported, match="the model's own code fails on the prompt .RuntimeError: .*give the config.json"
    ):
        live.forward(batch)
    attention.head_dim = 16
    live.forward(batch)
    with tracing(live.layout), pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "first_of", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            live.forward(batch)
    with pytest.raises(Unsupported, match="no decoder layers; check num_hidden_layers"):
        model, processor = random_llava()
        model.model.language_model.layers = torch.nn.ModuleList()
        LiveModel(model, processor, name="random")


def test_an_end_that_is_no_token_is_told(random_llava: Any) -> None:
    model, processor = random_llava()
    live = LiveModel(model, processor, name="random")
    for end in ("x", {}, [2, "x"], 1.5):
        model.generation_config.eos_token_id = end
        with pytest.raises(Unsupported, match="generation_config.json ends answers at .*, which is not a token id"):
            live.ask("a dog")
