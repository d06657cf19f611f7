"""Vectors in three spaces and what is found by them: against sums made by hand, and neurons that were planted."""

from __future__ import annotations

import json
import shutil
import wave
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_checks
import numpy as np
import pytest
import small_encoders
import torch
from PIL import Image

from atlas.api.atlas import Atlas
from atlas.errors import Unsupported, UsageError
from atlas.live.media import Clip, Medium, Sound
from atlas.query.map_spec import MapSpec
from atlas.store import create, engine
from atlas.store.database import open_readonly
from atlas.vectors.faiss_files import build_index, unit
from atlas.vectors.nearest import forget_loaded
from atlas.vectors.neuron_text import TextOptions, concept_maps, neuron_words
from atlas.vectors.profiles import whole_maps
from atlas.vectors.spaces import find_spaces, pick_model
from ingest.embed.embed import EmbeddedRun, EmbedSpec, embed
from ingest.embed.encoder import open_encoder
from ingest.embed.search import SearchSpec, by_medium, by_text, on_medium, robust_z
from ingest.embed.word_vectors import word_vectors
from ingest.run.generate import open_media

LAYERS, WIDTH = 2, 64


@pytest.fixture(autouse=True)
def no_loaded_index() -> None:
    forget_loaded()


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("embed")
    kinds = {"hf": small_encoders.bert, "clip": small_encoders.clip, "clap": small_encoders.clap}
    return {name: f"{name}:{make(folder / name)}" for name, make in kinds.items()}


def stored(path: Path, run_id: str) -> np.ndarray:
    """(neurons, dimension), in the order of their addresses."""
    with open_readonly(path) as connection:
        rows = connection.execute(
            "SELECT layer * 64 + neuron, vector FROM vectors WHERE run_id = $run ORDER BY 1", {"run": run_id}
        ).fetchall()
    assert [row[0] for row in rows] == list(range(LAYERS * WIDTH))
    return np.array([row[1] for row in rows], np.float32)


def write_vectors(folder: Path) -> np.ndarray:
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(folder)
    layers = model.model.language_model.layers
    found = np.concatenate([layer.mlp.down_proj.weight.detach().numpy().T for layer in layers])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_directions_are_the_columns_of_the_down_projections(own_atlas: Path, llava_folder: Path) -> None:
    done = embed(own_atlas, EmbedSpec("direction"))
    wanted = write_vectors(llava_folder)
    assert (done.rows, done.dimension, done.fresh) == (LAYERS * WIDTH, 32, True)
    assert np.allclose(stored(own_atlas, done.run_id), wanted, atol=1e-6)
    build_index(own_atlas, done.run_id)
    near = Atlas(own_atlas).similar("1/5", "direction", top=7)
    cosines = wanted @ wanted[WIDTH + 5]
    cosines[WIDTH + 5] = -2
    best = np.argsort(-cosines)[:7]
    assert [n.layer * WIDTH + n.index for n in near.neurons] == best.tolist()
    assert np.allclose(near.table["similarity"].to_numpy(), cosines[best], atol=1e-6)
    assert all(len(tokens) == 5 for tokens in near.table["tokens"].to_pylist())
    assert set(near.table["concept"].to_pylist()) <= {"cat", "dog"}


def test_the_same_job_is_one_run_and_is_not_made_twice(
    own_atlas: Path, encoder: dict[str, str], tmp_path: Path
) -> None:
    asked = EmbedSpec("decoded", encoder=encoder["hf"])
    first = embed(own_atlas, asked)
    manifest = own_atlas / "runs" / first.run_id / "manifest.json"
    before = manifest.stat().st_mtime_ns
    moved = shutil.copytree(encoder["hf"].partition(":")[2], tmp_path / "moved")
    again = embed(own_atlas, replace(asked, encoder=f"hf:{moved}", options={"batch_size": 3}))
    assert again.run_id == first.run_id and first.fresh and not again.fresh  # content decides, and not the place
    assert manifest.stat().st_mtime_ns == before
    job = json.loads(manifest.read_text())["run"]["job"]
    assert job["encoder"]["name"] == "hf" and len(job["encoder"]["identity"]) == 64
    assert job["maps"]["method"] == "contribution" and job["maps"]["concepts"] == ["cat", "dog"]
    assert str(tmp_path) not in manifest.read_text() and "/embed" not in json.dumps(job)
    for other in ({"options": {"pooling": "cls"}}, {"wording": TextOptions(3, 0)}, {"which": MapSpec(source="text")}):
        assert embed(own_atlas, replace(asked, **other)).run_id != first.run_id


def test_vectors_come_back_from_the_run_folders(own_atlas: Path) -> None:
    from atlas.maintain.rebuild import rebuild
    from atlas.store.database import database_file

    done = embed(own_atlas, EmbedSpec("profile"))
    before = stored(own_atlas, done.run_id)
    build_index(own_atlas, done.run_id)
    database_file(own_atlas).unlink()
    rebuild(own_atlas)
    assert np.array_equal(stored(own_atlas, done.run_id), before)
    near = Atlas(own_atlas).similar("1/5", "profile", top=3)  # no row names the old file: exact search, no warning
    wanted = before @ before[WIDTH + 5]
    wanted[WIDTH + 5] = -2
    assert np.allclose(near.table["similarity"].to_numpy(), np.sort(wanted)[::-1][:3], atol=1e-6)


def own_words(path: Path, tokens: int, concepts: int, share: float) -> list[tuple[list[str], list[str]]]:
    """Every neuron's tokens and concepts, by a loop over plain rows."""
    out = []
    with open_readonly(path) as connection:
        for layer in range(LAYERS):
            for neuron in range(WIDTH):
                at = f"layer = {layer} AND neuron = {neuron}"
                (said,) = connection.execute(
                    f"SELECT tokens FROM decodings WHERE {at} AND side = 'top' AND projection = 'z'"
                ).fetchall()[0]
                words: list[str] = []
                for token in (t.strip() for t in said):
                    readable = token.isprintable() and any(c.isalnum() for c in token)
                    if readable and token.lower() not in [w.lower() for w in words]:
                        words.append(token)
                ranked = connection.execute(
                    f"""SELECT c.name FROM scores s JOIN maps m USING (map_id) JOIN concepts c USING (concept_id)
                    WHERE {at} AND m.method = 'contribution' AND m.source = 'image' AND m.reduce = 'contrast'
                    AND s.rank <= ceil({share} * {LAYERS * WIDTH}) ORDER BY s.rank, c.name"""
                ).fetchall()
                out.append((words[:tokens], [name for (name,) in ranked[:concepts]]))
    return out


def test_the_words_of_a_neuron_are_its_tokens_and_its_best_concepts(stored_atlas: Path) -> None:
    with open_readonly(stored_atlas) as connection:
        model, _ = pick_model(connection)
        chosen = concept_maps(connection, MapSpec())
        for tokens, concepts, share in ((10, 3, 0.2), (2, 1, 0.5), (4, 0, 0.1), (0, 2, 1.0)):
            found = neuron_words(connection, model, chosen, TextOptions(tokens, concepts, share))
            assert found == own_words(stored_atlas, tokens, concepts, share)
            assert len({json.dumps(words) for words in found}) >= 2


def by_hand(opened: Any, words: tuple[list[str], list[str]]) -> np.ndarray:
    """A neuron's vector: its words' unit vectors, each times 1 / log2(1 + place), summed and scaled to length 1."""
    summed = np.zeros(opened.dimension)
    for group in words:
        for place, word in enumerate(group, start=1):
            vector = opened.texts([word])[0].astype(float)
            summed += vector / np.linalg.norm(vector) / np.log2(1 + place)
    return summed / max(float(np.linalg.norm(summed)), 1e-30)


def in_common_spelling(words: list[tuple[list[str], list[str]]]) -> list[tuple[list[str], list[str]]]:
    """The same with every word as most neurons spell it."""
    said = [word for neuron in words for group in neuron for word in group]

    def common(word: str) -> str:
        return min({w for w in said if w.lower() == word.lower()}, key=lambda w: (-said.count(w), w))

    return [([common(w) for w in tokens], [common(w) for w in concepts]) for tokens, concepts in words]


def test_decoded_vectors_are_weighted_means_of_the_words(own_atlas: Path, encoder: dict[str, str]) -> None:
    done = embed(own_atlas, EmbedSpec("decoded", encoder=encoder["hf"], wording=TextOptions(4, 2, 0.2)))
    words = own_words(own_atlas, 4, 2, 0.2)
    opened = open_encoder(encoder["hf"]).encoder
    wanted = np.array([by_hand(opened, neuron) for neuron in in_common_spelling(words)])
    assert np.allclose(stored(own_atlas, done.run_id), wanted, atol=1e-5)
    build_index(own_atlas, done.run_id)
    query = words[70][0][0]
    near = by_text(own_atlas, query, SearchSpec(encoder=encoder["hf"], top=3))
    cosines = wanted @ opened.texts([query])[0]
    assert np.allclose(near.table["similarity"].to_numpy(), np.sort(cosines)[::-1][:3], atol=1e-5)


class Counting:
    """An encoder of texts as random directions, which counts what it encodes."""

    dimension, modalities, identity = 16, frozenset({"text"}), "0" * 64

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.encoded += texts
        drawn = [np.random.default_rng(zlib.crc32(text.lower().encode())).normal(size=16) for text in texts]
        return unit(np.array(drawn))


def test_every_word_is_encoded_once_and_the_first_counts_most() -> None:
    neurons: list[Any] = [(["Dog", "leash"], ["dog"]), (["dog"], []), (["dog", "Leash"], []), ([], []), (["cat"], [])]
    encoder = Counting()
    told: list[tuple[int, int]] = []
    found = word_vectors(encoder, neurons, lambda done, total: told.append((done, total)))  # type: ignore[arg-type]
    assert sorted(encoder.encoded) == ["Leash", "cat", "dog"]  # of equally frequent spellings the first in the alphabet
    assert told == [(3, 3)]
    assert np.allclose(found, [by_hand(encoder, neuron) for neuron in neurons], atol=1e-6)
    assert not found[3].any()
    dog = encoder.texts(["dog"])[0]
    assert found[2] @ dog > found[4] @ dog


def test_texts_are_searched_with_the_encoder_that_made_the_space(own_atlas: Path, encoder: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="the space 'decoded' was never built; `atlas index build --space decoded`"):
        by_text(own_atlas, "dog", SearchSpec())
    embed(own_atlas, EmbedSpec("decoded", encoder=encoder["hf"]))
    with pytest.raises(UsageError, match="made by the encoder hf; say where it is: encoder='hf:ID_OR_FOLDER'"):
        by_text(own_atlas, "dog", SearchSpec())
    with pytest.raises(UsageError, match="was never built by this encoder"):
        by_text(own_atlas, "dog", SearchSpec(encoder=encoder["clip"]))
    with pytest.raises(UsageError, match="the text is empty"):
        by_text(own_atlas, "  ", SearchSpec(encoder=encoder["hf"]))


def test_pictures_and_recordings_are_searched_in_the_space_of_their_encoder(
    own_atlas: Path, encoder: dict[str, str], picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "cat.png")
    samples = np.random.default_rng(3).uniform(-0.9, 0.9, 8000)
    with wave.open(str(tmp_path / "bark.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((samples * 32_767).astype("<i2").tobytes())
    heard = ((samples * 32_767).astype("<i2") / 32_768).astype(np.float32)
    for name, media in (("clip", ([str(tmp_path / "cat.png")],)), ("clap", ([], [str(tmp_path / "bark.wav")]))):
        done = embed(own_atlas, EmbedSpec("decoded", encoder=encoder[name]))
        opened = open_encoder(encoder[name]).encoder
        query = opened.images([picture])[0] if name == "clip" else opened.sounds([(heard, 8000)])[0]
        near = by_medium(own_atlas, open_media(*media)[0], SearchSpec(encoder=encoder[name], top=5))
        cosines = np.sort(stored(own_atlas, done.run_id) @ query)[::-1][:5]
        assert np.allclose(near.table["similarity"].to_numpy(), cosines, atol=1e-4)
    with pytest.raises(Unsupported, match="this model takes text, image, not audio"):
        by_medium(own_atlas, Sound(heard, 8000), SearchSpec())
    with pytest.raises(Unsupported, match="encodes image and text, not audio"):
        by_medium(own_atlas, Sound(heard, 8000), SearchSpec(encoder=encoder["clip"]))
    with pytest.raises(Unsupported, match="encodes image and text, not video"):
        by_medium(own_atlas, Clip((picture,)), SearchSpec(encoder=encoder["clip"]))


def test_profiles_are_the_maps_standardised(own_atlas: Path) -> None:
    done = embed(own_atlas, EmbedSpec("profile", MapSpec(method="activation", source="text", reduce="mean")))
    with open_readonly(own_atlas) as connection:
        rows = connection.execute(
            """SELECT c.name, s.layer * 64 + s.neuron, s.score FROM scores s JOIN maps m USING (map_id)
            JOIN concepts c USING (concept_id) WHERE m.method = 'activation' AND m.source = 'text'
            AND m.reduce = 'mean' ORDER BY 1, 2"""
        ).fetchall()
    scores = np.array([row[2] for row in rows]).reshape(2, LAYERS * WIDTH)
    z = ((scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)).T
    assert np.allclose(stored(own_atlas, done.run_id), z / np.linalg.norm(z, axis=1, keepdims=True), atol=1e-4)
    with open_readonly(own_atlas) as connection:
        (space,) = find_spaces(connection, "profile")
    assert space.job["maps"]["concepts"] == ["cat", "dog"] and space.dimension == 2


def test_maps_that_keep_only_their_best_are_refused(own_atlas: Path) -> None:
    with engine.connect_writer(own_atlas) as connection:
        connection.exec_driver_sql("UPDATE maps SET kept = 20 WHERE method = 'contribution'")
    message = "has only its best 20 of 128 scores, and a profile needs them all; `atlas ingest --keep all`"
    with pytest.raises(UsageError, match=message):
        embed(own_atlas, EmbedSpec("profile"))
    with open_readonly(own_atlas) as connection, pytest.raises(UsageError, match=message):
        whole_maps(connection, MapSpec())
    assert embed(own_atlas, EmbedSpec("profile", MapSpec(method="activation"))).fresh  # those are whole


def test_other_weights_than_the_stored_ones_are_refused(own_atlas: Path) -> None:
    with engine.connect_writer(own_atlas) as connection:
        connection.exec_driver_sql(f"UPDATE models SET fingerprint = '{'0' * 64}'")
    with pytest.raises(UsageError, match="has other weights now"):
        embed(own_atlas, EmbedSpec("direction"))


def test_what_is_not_there_is_named(own_atlas: Path, empty_atlas: Path, encoder: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no space called 'directions'; did you mean 'direction'"):
        embed(own_atlas, EmbedSpec("directions"))
    with pytest.raises(UsageError, match="this atlas has no model yet"):
        embed(empty_atlas, EmbedSpec("profile"))
    with pytest.raises(UsageError, match="no model called 'llama'"):
        embed(own_atlas, EmbedSpec("profile", MapSpec(model="llama")))
    with pytest.raises(UsageError, match="no stored method called 'contribtion'"):
        embed(own_atlas, EmbedSpec("decoded", MapSpec(method="contribtion"), encoder=encoder["hf"]))
    with pytest.raises(UsageError, match="not both 0"):
        TextOptions(0, 0)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory, random_llava: Any, picture: Image.Image) -> tuple[Path, Path]:
    """An atlas of a LLaVA whose neuron 1/9 reads what `picture` gives and a grey one does not; the picture's file."""
    from ingest.job import Execution, make_job
    from ingest.run.ingest import ingest

    folder = tmp_path_factory.mktemp("planted")
    model, processor = random_llava()
    layer = model.model.language_model.layers[1]
    seen = {}
    for name, image in (("mine", picture), ("grey", Image.new("RGB", (12, 10), (128, 128, 128)))):
        made = processor(images=image, text="USER: <image>\n describe the picture ASSISTANT:", return_tensors="pt")
        handle = layer.mlp.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0][0]}))
        with torch.no_grad():
            model(**made)
        handle.remove()
        seen[name] = seen[name][made["input_ids"][0] == model.config.image_token_id].mean(0)
    mine, grey = seen["mine"], seen["grey"]
    read = mine - grey * (mine @ grey) / (grey @ grey)
    with torch.no_grad():
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
            projection.weight[9] = 6 * read / (read @ read)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    picture.save(folder / "mine.png")
    create.init(folder / "planted.atlas")
    job = {"model": str(folder / "model"), "methods": {"activation": {}}, "concepts": ("cat", "dog"), "per_concept": 2}
    ingest(folder / "planted.atlas", make_job(job), Execution())
    return folder / "planted.atlas", folder / "mine.png"


def test_a_planted_neuron_is_found_by_its_picture(planted: tuple[Path, Path]) -> None:
    path, file = planted
    near = by_medium(path, Image.open(file).convert("RGB"), SearchSpec(top=5))
    first = near.table.to_pylist()[0]
    assert (first["layer"], first["neuron"]) == (1, 9)
    assert first["value"] > first["usual"] + 1 and first["z"] > 3 * near.table["z"][1].as_py() > 0
    assert near.table["z"].to_pylist() == sorted(near.table["z"].to_pylist(), reverse=True)
    assert near.table.column_names[-5:] == ["value", "usual", "z", "tokens", "concept"]
    assert "usual=the stored means over" in near.provenance["assumed"][-1]


MEDIA = [
    ("Qwen2-VL", family_checks.pictures(1)[0], "image_token_id"),
    ("Qwen2-VL", Clip(tuple(family_checks.pictures(4))), "video_token_id"),
    ("Qwen2-Audio", family_checks.sound(0.4), "audio_token_id"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "medium", "token"), MEDIA, ids=[token for *_, token in MEDIA])
def test_values_on_a_medium_are_means_over_its_positions(family: str, medium: Medium, token: str) -> None:
    live = family_checks.Subject(family).live
    ids = live.encoder.prompt("what is this", [medium]).ids
    seen: dict[int, Any] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, y=y: seen.update({y: args[0][0].clone()}))
        for y, module in enumerate(live.layout.down)
    ]
    with torch.no_grad():
        live.model(**live.batch([live.encoder.prompt("what is this", [medium])]).inputs)
    for handle in handles:
        handle.remove()
    where = torch.tensor(ids) == getattr(live.model.config, token)
    assert 2 <= where.sum() < len(ids)
    for positions, mask in (("media", where), ("last", torch.arange(len(where)) == len(where) - 1)):
        wanted = np.stack([seen[y][mask].mean(0).numpy() for y in sorted(seen)])
        assert np.allclose(on_medium(live, medium, positions, "what is this"), wanted, atol=1e-5)
    asked = [on_medium(live, medium, "last", prompt) for prompt in ("describe the picture", "what is this ?")]
    assert np.abs(asked[0] - asked[1]).max() > 1e-3
    with pytest.raises(UsageError, match="no positions called 'first'"):
        on_medium(live, medium, "first", "what")


def test_without_stored_means_the_values_alone_are_ranked(own_atlas: Path, planted: tuple[Path, Path]) -> None:
    with engine.connect_writer(own_atlas) as connection:
        connection.exec_driver_sql("DELETE FROM maps WHERE concept_id IS NULL")
    near = by_medium(own_atlas, Image.open(planted[1]).convert("RGB"), SearchSpec(top=3))
    assert near.table["usual"].null_count == 3
    assert near.provenance["assumed"][-1].startswith("usual=0 (no means of image examples")


def test_z_is_robust_and_finite_where_most_neurons_are_off() -> None:
    generator = np.random.default_rng(0)
    plain = generator.standard_normal((1, 2001))
    z = robust_z(plain, np.zeros_like(plain))
    assert z.std() == pytest.approx(1, abs=0.1) and np.allclose(z, (plain - np.median(plain)) / z.std(), atol=0.4)
    spoilt = plain.copy()
    spoilt[0, :100] = 1e6
    assert np.abs(robust_z(spoilt, np.zeros_like(plain))[0, 100:] - z[0, 100:]).max() < 0.5
    off = np.zeros((2, 100))
    off[0, 7] = 2.0
    found = robust_z(off, np.full((2, 100), 0.01))
    assert np.isfinite(found).all() and found[0].argmax() == 7 and not found[1].any()
    assert robust_z(off, np.zeros((2, 100)))[0].argmax() == 7


def test_z_is_about_the_rise_above_the_usual_value() -> None:
    values, usual = np.random.default_rng(1).standard_normal((2, 1, 200)) * 0.1
    values[0, [4, 9]], usual[0, [4, 9]] = (5.0, 3.0), (5.0, 0.0)
    found = robust_z(values, usual)
    assert found[0].argmax() == 9 and abs(found[0, 4]) < 3


def test_rows_of_length_one(own_atlas: Path) -> None:
    done: EmbeddedRun = embed(own_atlas, EmbedSpec("profile"))
    found = stored(own_atlas, done.run_id)
    assert np.allclose(found, unit(found), atol=1e-6)
