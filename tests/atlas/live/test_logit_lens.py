"""Decoded tokens against plain loops over all neurons, and what is defined where there is nothing to decode."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from conftest import build_llava
from torch import nn

from atlas.live.logit_lens import Lens, choices, decode
from atlas.live.model import LiveModel
from atlas.query.decoded import PLAIN, Z

Table = dict[tuple[str, str, int, int], tuple[list[int], list[float]]]


def decoded(live: LiveModel, **options: Any) -> Table:
    """(projection, side, layer, neuron) -> its tokens and their values."""
    found: Table = {}
    for block in decode(live, **options):
        for i, (tokens, values) in enumerate(zip(block.tokens.tolist(), block.values.tolist(), strict=True)):
            found[block.projection, block.side, block.layer, block.first + i] = tokens, values
    return found


def words(live: LiveModel) -> list[int]:
    hidden = {*live.encoder.tokenizer.all_special_ids, *live.encoder.role_of.media_ids.values()}
    return [token for token in range(len(live.encoder.tokenizer)) if token not in hidden]


def in_loops(live: LiveModel) -> tuple[dict[tuple[int, int, int], float], dict[tuple[int, int, int], float]]:
    """The plain projection and z of every layer, neuron and word, from sums over all neurons in double precision."""
    rows = live.layout.unembedding().double()
    vectors = {
        (layer, neuron): live.layout.write_vectors(layer)[:, neuron].double()
        for layer in range(len(live.layout.layers))
        for neuron in range(live.layout.width)
    }
    plain, z = {}, {}
    for token in words(live):
        shares = {at: float(rows[token] @ v) / float(v.norm()) for at, v in vectors.items() if float(v.norm())}
        mean = sum(shares.values()) / len(shares)
        sd = math.sqrt(sum((share - mean) ** 2 for share in shares.values()) / len(shares))
        for at, share in shares.items():
            plain[*at, token] = float(rows[token] @ vectors[at])
            z[*at, token] = (share - mean) / sd
    return plain, z


def changed(seed: int = 0) -> LiveModel:
    """A model of its own, whose weights a test may change."""
    torch.manual_seed(seed)
    model, processor = build_llava()
    return LiveModel(copy.deepcopy(model), processor, name="changed")


def down(live: LiveModel, layer: int) -> torch.Tensor:
    """(d_model, neurons): the weight itself."""
    weight: torch.Tensor = live.layout.down[layer].weight.data
    return weight


def head(live: LiveModel) -> torch.Tensor:
    """(vocabulary, d_model): the weight itself."""
    found: torch.Tensor = live.model.get_output_embeddings().weight.data
    assert found.data_ptr() == live.layout.unembedding().data_ptr()
    return found


@pytest.mark.parametrize("family", ["llava", "opt"])
def test_both_projections_in_blocks_equal_loops_over_all_neurons(family: str, request: pytest.FixtureRequest) -> None:
    live = request.getfixturevalue(family)
    found = decoded(live, top=4, block=24)
    assert len(found) == 2 * 2 * 2 * 64
    for projection, wanted in zip((PLAIN, Z), in_loops(live), strict=True):
        for layer, neuron in ((0, 0), (0, 23), (0, 24), (1, 17), (1, 63)):
            values = {token: wanted[layer, neuron, token] for token in words(live)}
            for side in ("top", "bottom"):
                best = sorted(values, key=lambda token: values[token], reverse=side == "top")[:4]
                tokens, shown = found[projection, side, layer, neuron]
                assert tokens == best
                assert shown == pytest.approx([values[token] for token in best], abs=1e-4)


def test_the_plain_choices_are_those_of_the_plain_projection(llava: LiveModel) -> None:
    found, chosen = decoded(llava, top=3), choices(llava, 3)
    for layer, neuron in ((0, 5), (1, 63)):
        for side in ("top", "bottom"):
            assert chosen[layer, side][neuron].tolist() == found[PLAIN, side, layer, neuron][0]


def test_a_planted_neuron_is_read_as_its_word_by_z(llava: LiveModel) -> None:
    live, token = changed(), words(llava)[11]
    down(live, 1)[:, 7] = 0.5 * head(live)[token] + 0.02 * torch.randn(32)
    tokens, values = decoded(live)[Z, "top", 1, 7]
    assert tokens[0] == token and values[0] > 3


def test_a_long_row_dominates_the_plain_projection_and_not_z(llava: LiveModel) -> None:
    live, token = changed(), words(llava)[20]
    before = decoded(live, top=6)
    head(live)[token] *= 30
    after, neurons = decoded(live, top=6), [(layer, n) for layer in range(2) for n in range(64)]

    def share(found: Table, projection: str) -> float:
        among = [token in {*found[projection, s, *at][0]} for at in neurons for s in ("top", "bottom")]
        return sum(among) / len(neurons)

    assert share(after, PLAIN) > 0.9
    assert share(after, Z) == share(before, Z) < 0.2
    for at in neurons:  # z does not depend on how long a row is
        assert after[Z, "top", *at][0] == before[Z, "top", *at][0]
    assert Lens(live).long_rows.tolist()[0] == token


def test_a_write_vector_of_zeros_has_no_tokens_and_does_not_count() -> None:
    live = changed()
    down(live, 0)[:, 9] = 0
    found = decoded(live, top=3)
    for projection in (PLAIN, Z):
        for side in ("top", "bottom"):
            assert found[projection, side, 0, 9] == ([-1] * 3, [0.0] * 3)
    _, z = in_loops(live)
    values = {token: z[1, 4, token] for token in words(live)}
    assert found[Z, "top", 1, 4][0] == sorted(values, key=lambda token: -values[token])[:3]
    assert (choices(live, 3)[0, "top"][9] == -1).all()


def test_a_token_whose_projections_are_all_equal_has_no_z(llava: LiveModel) -> None:
    live, token = changed(), words(llava)[3]
    head(live)[token] = 0
    many = len(words(live))
    found = decoded(live, top=many)
    assert token in found[PLAIN, "top", 0, 0][0] and len(found[PLAIN, "top", 0, 0][0]) == many
    assert token not in found[Z, "top", 0, 0][0] and len(found[Z, "top", 0, 0][0]) == many - 1
    assert all(math.isfinite(value) for value in found[Z, "bottom", 1, 3][1])


def test_without_a_second_direction_no_token_has_a_z() -> None:
    live = changed()
    for layer in range(2):
        down(live, layer)[:] = down(live, 0)[:, :1].clone() * torch.linspace(0.5, 2, 64)
    found = decoded(live, top=3)
    assert len(found[PLAIN, "top", 0, 0][0]) == 3
    assert found[Z, "top", 0, 0] == ([], [])


def test_one_word_is_enough(llava: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    only = words(llava)[5]
    others = [token for token in range(llava.layout.vocabulary) if token != only]
    monkeypatch.setattr("atlas.live.logit_lens._not_words", lambda live: others)
    for tokens, values in decoded(llava).values():
        assert tokens == [only] and math.isfinite(values[0])
    assert Lens(llava).long_rows.tolist() == [only]


def test_special_tokens_are_left_out_however_they_project(llava: LiveModel) -> None:
    live = changed()
    special = live.encoder.tokenizer.all_special_ids[0]
    down(live, 0)[:, 2] = head(live)[special]
    for tokens, _ in decoded(live).values():
        assert set(tokens) <= set(words(live))


def test_a_model_in_half_precision_is_decoded_as_its_weights_are() -> None:
    half = changed()
    half.model.to(torch.bfloat16)
    rounded = copy.deepcopy(half)
    rounded.model.to(torch.float32)
    wanted, found = decoded(rounded, top=5), decoded(half, top=5)
    for at, (tokens, values) in wanted.items():
        assert found[at][0] == tokens
        assert found[at][1] == pytest.approx(values, abs=1e-4)


def test_a_bias_of_the_head_changes_nothing() -> None:
    live = changed()
    before = decoded(live, top=5)
    live.model.get_output_embeddings().bias = nn.Parameter(torch.randn(live.layout.vocabulary))
    assert decoded(live, top=5) == before


def test_progress_counts_layers(llava: LiveModel) -> None:
    told: list[tuple[int, int]] = []
    for _ in decode(llava, progress=lambda done, total: told.append((done, total))):
        pass
    assert told == [(1, 2), (2, 2)]
