"""Where an edit acts: what can be said, and the masks of running passes against a loop over their positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import gap, small
from torch import Tensor

from atlas.edits.edit import Change, Intervention
from atlas.edits.positions import EVERYWHERE, Positions, as_slice
from atlas.errors import Unsupported, UsageError
from atlas.live.edit.apply import changing
from atlas.live.encode import TokenRoles
from atlas.live.hooks import tracing
from atlas.live.layer_call import CACHES
from atlas.live.model import LiveModel
from atlas.live.token_positions import PassPositions, answers_from
from atlas.neurons import LANGUAGE, Neuron
from atlas.token_roles import ROLES

ROLE_NAMES = ("text", "special", "image", "video", "audio", "special_text")
number = st.integers(-40, 40)
ends = st.one_of(st.just(""), number.map(str))
span = st.one_of(number.map(str), st.tuples(ends, ends).map(":".join))
roles = st.lists(st.sampled_from(ROLE_NAMES), max_size=4).map(tuple)
spans = st.lists(span, max_size=3).map(tuple)
wheres = st.one_of(
    st.builds(Positions, roles, spans, st.sampled_from([None, "prefill"])),
    st.builds(Positions, roles, st.just(()), st.just("decode")),
)


@given(wheres)
def test_what_is_written_reads_back(where: Positions) -> None:
    assert Positions.parse(str(where)) == where
    assert hash(Positions.parse(str(where))) == hash(where)
    assert (str(where) == "all") == (where == EVERYWHERE)


@given(wheres, st.permutations([0, 1, 2]), st.sampled_from(["", " "]))
def test_order_and_spaces_do_not_matter(where: Positions, order: list[int], space: str) -> None:
    said = [f"role={f'{space},'.join(reversed(where.roles))}" if where.roles else ""]
    said += [f"position={f',{space}'.join(where.spans)}" if where.spans else ""]
    said += [f"phase={where.phase}" if where.phase else ""]
    text = f"{space};{space}".join(said[i] for i in order if said[i])
    assert Positions.parse(text) == where


def test_unions_are_spelled_out_and_roles_are_in_one_order() -> None:
    assert (
        Positions.parse("role=special_text")
        == Positions(("special", "text"))
        == Positions.parse("role=text,special,text")
    )
    assert str(Positions(("image", "special_text"))) == "role=text,special,image"
    assert Positions.parse(" all ") == Positions.parse("") == EVERYWHERE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "everywhere",
            "'everywhere' is not a place for where; write role=image,text, position=-1,2:5 or phase=prefill",
        ),
        ("roles=image", "'roles=image' is not a place for where"),
        ("role=image;", "'' is not a place for where"),
        ("role=image;role=text", "'role=text' is not a place for where"),
        ("role=images", "no token role called 'images'; there are: text, special, image, video, audio, special_text"),
        ("role=", "no token role called ''"),
        ("role=pad", "no token role called 'pad'"),
        ("phase=answer", "phase=answer is neither prefill nor decode"),
        ("phase=", "phase= is neither prefill nor decode"),
        ("phase=prefill,decode", "phase=prefill,decode is neither prefill nor decode"),
        ("position=first", "'first' is not a position of a prompt; write 0, -1, 2:5 or -3:"),
        ("position=", "'' is not a position"),
        ("position=1:2:3", "'1:2:3' is not a position"),
        ("position=1.5", "'1.5' is not a position"),
        ("position=0;phase=decode", "position counts in the prompt; phase=decode has none of its positions"),
    ],
)
def test_everything_else_is_refused_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Positions.parse(text)


def test_a_where_made_in_python_is_held_to_the_same_rules() -> None:
    for made in ({"roles": ("picture",)}, {"spans": ("x",)}, {"phase": "answer"}, {"spans": ("0",), "phase": "decode"}):
        with pytest.raises(UsageError):
            Positions(**made)  # type: ignore[arg-type]


@given(number, st.integers(1, 30))
def test_one_position_is_pythons_own(at: int, length: int) -> None:
    row = list(range(length))
    assert row[as_slice(str(at))] == ([row[at]] if -length <= at < length else [])


# masks


class Config:
    image_token_id, audio_token_index = 3, 4


SPECIAL = (0, 1, 2, 3, 4)


def role(token: int) -> str:
    """By hand: image and audio placeholders before special tokens."""
    return {3: "image", 4: "audio"}.get(token, "special" if token in SPECIAL else "text")


class Cache:
    def __init__(self, seen: int):
        self.seen = seen

    def get_seq_length(self) -> int:
        return self.seen


def expected(
    where: Positions, rows: list[list[int]], prompts: list[int], seen: int, length: int, left: bool
) -> list[Any]:
    """Which positions of the pass (columns seen to seen + length) an edit changes, one position at a time; None where
    it is padding, which does not matter."""
    width = max(len(row) for row in rows)
    out = []
    for row, prompt in zip(rows, prompts, strict=True):
        first = width - len(row) if left else 0
        chosen = []
        for column in range(seen, seen + length):
            place = column - first
            if not 0 <= place < len(row):
                chosen.append(None)
                continue
            in_prompt = place < prompt
            yes = not where.roles or role(row[place]) in where.roles
            yes &= where.phase is None or (where.phase == "prefill") == in_prompt
            if where.spans:
                yes &= in_prompt and any(place in range(prompt)[as_slice(s)] for s in where.spans)
            chosen.append(yes)
        out.append(chosen)
    return out


rows_of_tokens = st.lists(st.lists(st.integers(0, 12), min_size=2, max_size=9), min_size=1, max_size=4)


def padded(rows: list[list[int]], left: bool) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        first = width - len(row) if left else 0
        ids[i, first : first + len(row)], mask[i, first : first + len(row)] = torch.tensor(row), 1
    return ids, mask


def agrees(places: PassPositions, where: Positions, wanted: list[Any]) -> None:
    found = places.mask(where).tolist()
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert all(b is None or a == b for a, b in zip(mine, theirs, strict=True)), (where, found, wanted)


@given(rows_of_tokens, st.booleans(), wheres, st.data())
def test_masks_of_a_teacher_forced_pass(
    rows: list[list[int]], left: bool, where: Positions, data: st.DataObject
) -> None:
    ids, mask = padded(rows, left)
    width = ids.shape[1]
    prompts = [data.draw(st.integers(1, len(row))) for row in rows]
    starts = [(width - len(row) if left else 0) + prompt for row, prompt in zip(rows, prompts, strict=True)]
    places = PassPositions(TokenRoles(Config, SPECIAL))
    with answers_from(starts):
        places.look((), {"input_ids": ids, "attention_mask": mask})
    agrees(places, where, expected(where, rows, prompts, 0, width, left))
    places.look((ids,), {"attention_mask": mask})  # all of it is prompt where nobody says where the answer begins
    agrees(places, where, expected(where, rows, [len(row) for row in rows], 0, width, left))


@given(rows_of_tokens, wheres, st.lists(st.integers(0, 12), min_size=1, max_size=4), st.sampled_from(CACHES))
def test_masks_of_cached_generation(rows: list[list[int]], where: Positions, answer: list[int], cache: str) -> None:
    """The prompt padded on the left in one pass, then every token of the answer alone."""
    ids, mask = padded(rows, left=True)
    prompts, width = [len(row) for row in rows], ids.shape[1]
    places = PassPositions(TokenRoles(Config, SPECIAL))
    places.look((), {"input_ids": ids, "attention_mask": mask, cache: Cache(0)})
    agrees(places, where, expected(where, rows, prompts, 0, width, True))
    places.leave()
    for step, token in enumerate(answer):
        rows = [[*row, token] for row in rows]
        mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=torch.long)], 1)
        one = {"input_ids": torch.full((len(rows), 1), token), "attention_mask": mask}
        places.look((), {**one, cache: Cache(width + step)})
        agrees(places, where, expected(where, rows, prompts, width + step, 1, True))
        assert places.numbers is not None and places.numbers[:, 0].tolist() == [len(row) - 1 for row in rows]
        places.leave()


def test_what_cannot_be_known_is_refused() -> None:
    ids, mask = padded([[1, 5, 6], [7, 8]], left=True)
    places = PassPositions(TokenRoles(Config, SPECIAL))
    with pytest.raises(Unsupported, match="call the model, not a part"):
        places.mask(Positions(phase="prefill"))
    with pytest.raises(Unsupported, match="attention mask of the whole row"):
        places.look((), {"input_ids": ids, "attention_mask": mask[:, None, None]})
    with pytest.raises(Unsupported, match="attention mask of the whole row"):
        places.look((), {"input_ids": ids[:, :1], "attention_mask": mask[:, :1], "past_key_values": Cache(3)})
    with pytest.raises(Unsupported, match="attention mask of the whole row"):
        places.look((), {"input_ids": ids[:1, :1], "attention_mask": mask[:1, :1], "past_key_values": Cache(3)})
    places.look((), {"input_ids": ids[:1], "attention_mask": mask[:1, None, None]})  # one row has no padding
    assert places.mask(Positions(spans=("-1",))).tolist() == [[False, False, True]]
    several = {"input_ids": ids, "attention_mask": torch.ones(2, 8), "past_key_values": Cache(5)}
    places.look((), several)
    assert bool(places.mask(Positions(("text",))).any())
    for where in (Positions(phase="decode"), Positions(phase="prefill"), Positions(spans=("0",))):
        with pytest.raises(Unsupported, match="may be the rest of a prompt or guesses at an answer"):
            places.mask(where)
    places.look((), {"inputs_embeds": torch.zeros(2, 3, 8), "attention_mask": mask})
    assert places.mask(Positions(spans=("0",))).tolist() == [[True, False, False], [False, True, False]]
    with pytest.raises(Unsupported, match="needs input_ids; this pass was given embeddings"):
        places.mask(Positions(("image",)))
    with pytest.raises(Unsupported, match="does not see every position once"):
        places.at(Positions(spans=("0",)), torch.zeros(4, 64))
    assert places.at(Positions(spans=("0",)), torch.zeros(6, 64)).tolist() == [True, False, False, False, True, False]


def test_without_a_tokenizer_text_cannot_be_told_from_special_tokens() -> None:
    places = PassPositions(TokenRoles(Config, None))
    places.look((), {"input_ids": torch.tensor([[1, 3, 3, 9]])})
    for names in (("text",), ("special",), ("special", "image")):
        with pytest.raises(Unsupported, match=r"needs the tokenizer; give it with .on\(model, processor=...\)"):
            places.mask(Positions(names))
    assert places.mask(Positions(("image",))).tolist() == [[False, True, True, False]]
    assert places.mask(Positions(("special_text",))).tolist() == [[True, False, False, True]]
    assert places.mask(Positions(("special_text", "image"))).tolist() == [[True] * 4]


# on models


def values_inside(model: Any, live: LiveModel, inputs: dict[str, Tensor], where: Positions | None) -> dict[int, Tensor]:
    """layer -> what its down projection is given, with every neuron of layer 0 set to 7 at some positions."""
    changes = tuple(Change(Neuron(LANGUAGE, 0, n), 0.0, 7.0, where=where or EVERYWHERE) for n in range(64))
    with torch.no_grad(), changing(model, Intervention(changes if where else ())), tracing(live.layout) as inside:
        live.model(**inputs, use_cache=False)
    return inside.values


def test_an_edit_of_image_positions_leaves_text_positions_alone(llava: LiveModel, picture: Any) -> None:
    prompts = [llava.encoder.prompt("what is this ?", [picture]), llava.encoder.prompt("a dog and a cat")]
    batch = llava.batch(prompts, left=True)
    plain = values_inside(llava, llava, batch.inputs, None)
    edited = values_inside(llava, llava, batch.inputs, Positions(("image",)))
    image = batch.roles == ROLES.index("image")
    assert int(image.sum()) == 4
    assert bool((edited[0][image] == 7).all())
    assert torch.equal(edited[0][~image], plain[0][~image])
    # a layer on, what sees the picture is another, and what comes before it or has none is the same
    first = int(image[0].nonzero()[0])
    assert torch.equal(edited[1][0, :first], plain[1][0, :first]) and torch.equal(edited[1][1], plain[1][1])
    assert gap(plain[1][0, first:], edited[1][0, first:]) > 1e-3


@pytest.mark.parametrize("name", ["llava", "opt"])
def test_text_positions_alone_are_changed_too(name: str, request: pytest.FixtureRequest, picture: Any) -> None:
    live: LiveModel = request.getfixturevalue(name)
    pictures = [picture] if name == "llava" else []
    prompts = [live.encoder.prompt("what is this ?", pictures), live.encoder.prompt("a dog")]
    batch = live.batch(prompts)
    plain = values_inside(live, live, batch.inputs, None)
    for where, names in ((Positions(("text",)), ("text",)), (Positions(("special_text",)), ("text", "special"))):
        edited = values_inside(live, live, batch.inputs, where)
        mine = torch.isin(batch.roles, torch.tensor([ROLES.index(n) for n in names]))
        real = batch.roles != ROLES.index("pad")
        assert bool((edited[0][mine] == 7).all()) and bool(mine.any())
        assert torch.equal(edited[0][~mine & real], plain[0][~mine & real])


def test_a_bare_model_knows_pictures_and_with_a_processor_text(llava: LiveModel, picture: Any) -> None:
    batch = llava.batch([llava.encoder.prompt("what is this ?", [picture])])
    known = values_inside(llava, llava, batch.inputs, Positions(("image",)))
    bare = values_inside(llava.model, llava, batch.inputs, Positions(("image",)))
    assert torch.equal(known[0], bare[0])
    with pytest.raises(Unsupported, match="processor="):
        values_inside(llava.model, llava, batch.inputs, Positions(("text",)))
    one = Intervention((Change(Neuron(LANGUAGE, 0, 3), 0.0, 7.0, where=Positions(("text",))),))
    for processor in (llava.encoder.processor, llava.encoder.tokenizer):
        with torch.no_grad(), changing(llava.model, one, processor=processor), tracing(llava.layout) as inside:
            llava.model(**batch.inputs, use_cache=False)
        assert torch.equal(inside.values[0][..., 3] == 7, batch.roles == ROLES.index("text"))


def test_write_vectors_change_at_the_chosen_positions_alone() -> None:
    """What the FFN gives, position by position: its column's delta times the value where asked, nothing elsewhere."""
    from atlas.edits.edit import with_deltas
    from atlas.live.layout import locate

    model = small("GPTNeoX")
    layout, ids = locate(model), torch.tensor([[5, 6, 7, 8]])
    delta = torch.linspace(-1, 1, 32)
    what = with_deltas([Change(Neuron(LANGUAGE, 0, 9), where=Positions(spans=("1:3",)))], [delta.numpy()])
    outputs: list[Tensor] = []
    handle = layout.layers[0].register_forward_hook(
        lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad(), tracing(layout) as plain:
        model(input_ids=ids)
    with torch.no_grad(), changing(model, what):
        model(input_ids=ids)
    handle.remove()
    added = (outputs[1] - outputs[0])[0]
    value = plain.values[0][0, :, 9]
    assert not added[[0, 3]].any()
    assert torch.allclose(added[1:3], value[1:3, None] * delta, atol=1e-5) and float(added.abs().max()) > 0.01
